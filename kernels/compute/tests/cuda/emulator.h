// What a generated CUDA kernel needs to run on a CPU, one block after the other: every thread is a
// fiber, planes meet at the instructions that work on a whole plane, blocks at __syncthreads.
//
// It is built to find mistakes, not for speed. Shared memory starts as NaN. An asynchronous copy
// arrives at a moment drawn by chance between its start and the wait for it. Threads take turns in
// a random order, and one plane after another runs ahead of the others as far as barriers let it.
// Lanes of a plane that meet at different instructions, a barrier that not all threads reach, and
// an access beyond a buffer end the run.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <random>
#include <sys/mman.h>
#include <ucontext.h>
#include <vector>

using std::max;
using std::min;
// Of a number and no number a GPU takes the number.
static float max(float a, float b) { return fmaxf(a, b); }
static float min(float a, float b) { return fminf(a, b); }
#define __device__
#define __global__
#define __grid_constant__
#define __launch_bounds__(n)

// Round to nearest even, as the conversion instruction does.
struct __nv_bfloat16 {
    uint16_t bits;
    __nv_bfloat16() = default;
    __nv_bfloat16(float x) {
        uint32_t u;
        memcpy(&u, &x, 4);
        if (x != x) { bits = 0x7fff; return; }
        bits = (u + 0x7fff + ((u >> 16) & 1)) >> 16;
    }
    operator float() const {
        uint32_t u = uint32_t(bits) << 16;
        float x;
        memcpy(&x, &u, 4);
        return x;
    }
};

namespace emulator {

struct Index { uint32_t x, y, z; };
struct Copy { char *to; const char *from; unsigned size, given; };

struct Lane {
    ucontext_t context;
    std::unique_ptr<char[]> stack;
    Index thread;
    unsigned id, line;
    bool done;
    std::vector<Copy> open;
    std::deque<std::vector<Copy>> groups;
};

struct Plane {
    unsigned arrived = 0, phase = 0, live = 0, line = 0;
    const char *at = nullptr;
    uint32_t in[32][12], out[32][8];
};

static std::mt19937 chance(1);
static std::vector<Lane> lanes;
static std::vector<Plane> planes;
static Lane *now;
static ucontext_t scheduler;
static Index grid, block, cube;
static char *shared;
static size_t shared_size;
static unsigned barrier_arrived, barrier_phase, live;
static uint64_t progress;

[[noreturn]] static void die(const char *what) {
    fprintf(stderr, "%s: block %u %u %u, thread %u %u\n", what, block.x, block.y, block.z, now->thread.x, now->thread.y);
    exit(1);
}

static void yield() { swapcontext(&now->context, &scheduler); }

static char *at_shared(uint32_t offset, size_t size, size_t alignment) {
    if (offset + size > shared_size) die("beyond shared memory");
    if (offset % alignment) die("unaligned shared memory");
    return shared + offset;
}

// The line of the kernel at which this thread is.
static void at_line(unsigned line) { now->line = line; }

// All lanes of a plane give their operands; the last one computes every lane's result.
static void meet(const char *at, const uint32_t *in, unsigned ins, uint32_t *out, unsigned outs, void (*compute)(Plane &)) {
    Plane &plane = planes[now->id / 32];
    unsigned lane = now->id % 32;
    if (plane.arrived == 0) plane.at = at, plane.line = now->line;
    else if (strcmp(plane.at, at) || plane.line != now->line) die("lanes of a plane meet at different instructions");
    memcpy(plane.in[lane], in, 4 * ins);
    progress++;
    unsigned phase = plane.phase;
    if (++plane.arrived == plane.live) {
        compute(plane);
        plane.arrived = 0;
        plane.phase++;
    } else {
        while (plane.phase == phase) yield();
    }
    memcpy(out, plane.out[lane], 4 * outs);
}

static float number(uint32_t pair, unsigned which) {
    __nv_bfloat16 x;
    x.bits = pair >> (16 * which);
    return x;
}
static float number(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

// The layouts are those of the PTX manual, "Matrix Fragments for mma.m16n8k16".
static void multiply(Plane &plane) {
    float a[16][16], b[16][8];
    for (unsigned lane = 0; lane < 32; lane++) {
        unsigned group = lane / 4, in_group = lane % 4;
        for (unsigned i = 0; i < 8; i++) {
            unsigned row = group + (i < 2 || (i >= 4 && i < 6) ? 0 : 8);
            a[row][in_group * 2 + (i & 1) + (i >= 4 ? 8 : 0)] = number(plane.in[lane][i / 2], i & 1);
        }
        for (unsigned i = 0; i < 4; i++)
            b[in_group * 2 + (i & 1) + (i >= 2 ? 8 : 0)][group] = number(plane.in[lane][4 + i / 2], i & 1);
    }
    for (unsigned lane = 0; lane < 32; lane++) {
        for (unsigned i = 0; i < 4; i++) {
            unsigned row = lane / 4 + (i < 2 ? 0 : 8), column = lane % 4 * 2 + (i & 1);
            float sum = number(plane.in[lane][6 + i]);
            for (unsigned k = 0; k < 16; k++) sum += a[row][k] * b[k][column];
            memcpy(&plane.out[lane][i], &sum, 4);
        }
    }
}

static void mma(float &d0, float &d1, float &d2, float &d3, uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                uint32_t b1, float c0, float c1, float c2, float c3) {
    uint32_t in[10] = {a0, a1, a2, a3, b0, b1}, out[4];
    float c[4] = {c0, c1, c2, c3}, d[4];
    memcpy(in + 6, c, 16);
    meet("mma", in, 10, out, 4, multiply);
    memcpy(d, out, 16);
    d0 = d[0], d1 = d[1], d2 = d[2], d3 = d[3];
}

template <bool transposed> static void load(Plane &plane) {
    for (unsigned matrix = 0; matrix < 4; matrix++) {
        uint16_t rows[8][8];
        for (unsigned row = 0; row < 8; row++) memcpy(rows[row], at_shared(plane.in[8 * matrix + row][0], 16, 16), 16);
        for (unsigned lane = 0; lane < 32; lane++) {
            unsigned r = lane / 4, c = lane % 4 * 2;
            uint32_t low = transposed ? rows[c][r] : rows[r][c], high = transposed ? rows[c + 1][r] : rows[r][c + 1];
            plane.out[lane][matrix] = low | high << 16;
        }
    }
}
static void ldmatrix(uint32_t &d0, uint32_t &d1, uint32_t &d2, uint32_t &d3, uint32_t address) {
    uint32_t out[4];
    meet("ldmatrix", &address, 1, out, 4, load<false>);
    d0 = out[0], d1 = out[1], d2 = out[2], d3 = out[3];
}
static void ldmatrix_transposed(uint32_t &d0, uint32_t &d1, uint32_t &d2, uint32_t &d3, uint32_t address) {
    uint32_t out[4];
    meet("ldmatrix.trans", &address, 1, out, 4, load<true>);
    d0 = out[0], d1 = out[1], d2 = out[2], d3 = out[3];
}

static void arrive(const Copy &copy) {
    memset(copy.to, 0, copy.size);
    if (copy.given) memcpy(copy.to, copy.from, copy.given);
}
template <unsigned size> static void copy_async(uint32_t to, const void *from, uint32_t given) {
    if ((uintptr_t)from % size) die("unaligned global memory");
    if (given > size) die("a copy longer than its size");
    Copy copy = {at_shared(to, size, size), (const char *)from, size, given};
    if (chance() & 1) arrive(copy);
    else now->open.push_back(copy);
}
static void commit() {
    now->groups.push_back(std::move(now->open));
    now->open.clear();
}
template <size_t last> static void wait_for_all_but() {
    while (now->groups.size() > last) {
        for (const Copy &copy : now->groups.front()) arrive(copy);
        now->groups.pop_front();
    }
}
static void ex2(float &y, float x) {
    y = exp2f(x);
    if (y < 1.17549435e-38f) y = 0;
}

static void barrier() {
    progress++;
    unsigned phase = barrier_phase;
    if (++barrier_arrived == live) {
        barrier_arrived = 0;
        barrier_phase++;
    } else {
        while (barrier_phase == phase) yield();
    }
}

template <typename T> static T exchange(const char *at, T value, uint32_t operand, void (*compute)(Plane &)) {
    static_assert(sizeof(T) == 4, "a shuffle moves 32 bits");
    uint32_t in[2], out;
    memcpy(in, &value, 4);
    in[1] = operand;
    meet(at, in, 2, &out, 1, compute);
    memcpy(&value, &out, 4);
    return value;
}

static std::function<void()> kernel;
static void enter() {
    kernel();
    now->done = true;
    progress++;
    live--;
    planes[now->id / 32].live--;
    if (planes[now->id / 32].arrived || barrier_arrived) die("a thread left while others wait");
    swapcontext(&now->context, &scheduler);
}

static void run_block(size_t shared_bytes) {
    unsigned threads = cube.x * cube.y * cube.z;
    std::vector<char> memory(shared_bytes + 32, char(0xff));
    shared = (char *)(((uintptr_t)memory.data() + 15) / 16 * 16);
    shared_size = shared_bytes;
    barrier_arrived = 0;
    live = threads;
    planes.assign((threads + 31) / 32, Plane());
    lanes.resize(threads);
    std::vector<unsigned> order(threads);
    for (unsigned i = 0; i < threads; i++) {
        Lane &lane = lanes[i];
        const size_t size = 1 << 18;
        if (!lane.stack) lane.stack.reset(new char[size]);
        lane.thread = {i % cube.x, i / cube.x % cube.y, i / (cube.x * cube.y)};
        lane.id = i;
        lane.done = false;
        lane.open.clear();
        lane.groups.clear();
        planes[i / 32].live++;
        getcontext(&lane.context);
        lane.context.uc_stack.ss_sp = lane.stack.get();
        lane.context.uc_stack.ss_size = size;
        lane.context.uc_link = &scheduler;
        makecontext(&lane.context, enter, 0);
        order[i] = i;
    }
    std::vector<bool> waits(planes.size());
    unsigned ahead = 0;
    bool idle = false;
    for (uint64_t round = 0; live; round++) {
        uint64_t before = progress;
        std::shuffle(order.begin(), order.end(), chance);
        if (round % 64 == 0) ahead = chance() % planes.size();
        for (unsigned plane = 0; plane < planes.size(); plane++) waits[plane] = !idle && plane != ahead && chance() % 8;
        for (unsigned i : order) {
            if (lanes[i].done || waits[i / 32]) continue;
            now = &lanes[i];
            swapcontext(&scheduler, &lanes[i].context);
        }
        // Where nobody gets on, everybody has a turn.
        if (idle && live && progress == before) die("all threads wait");
        idle = progress == before;
    }
}

// A buffer that ends where a page that cannot be touched begins.
struct Buffer {
    char *data;
    size_t size, slack;
    explicit Buffer(size_t n) : size(n) {
        const size_t page = 4096, pages = (n + page - 1) / page + 1;
        char *start = (char *)mmap(nullptr, (pages + 1) * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        mprotect(start + pages * page, page, PROT_NONE);
        memset(start, 0xff, pages * page);
        // Devices align buffers to 16 bytes at least, so a size that is no multiple of it leaves a gap.
        slack = (pages * page - n) / 16 * 16;
        data = start + slack;
    }
    void check() const {
        for (size_t i = 1; i <= slack; i++)
            if (data[-(long)i] != char(0xff)) { fprintf(stderr, "written before a buffer\n"); exit(1); }
    }
};

static uint32_t word(FILE *file) {
    uint32_t x;
    if (fread(&x, 4, 1, file) != 1) { fprintf(stderr, "the input ends early\n"); exit(1); }
    return x;
}

}  // namespace emulator

#define threadIdx (emulator::now->thread)
#define blockIdx (emulator::block)
#define gridDim (emulator::grid)
#define blockDim (emulator::cube)
static const uint32_t warpSize = 32;
static void __syncthreads() { emulator::barrier(); }
static unsigned __activemask() { return ~0u; }
static uint32_t __cvta_generic_to_shared(const void *p) { return uint32_t((const char *)p - emulator::shared); }
template <typename T> static T __shfl_xor_sync(unsigned, T value, uint32_t mask) {
    return emulator::exchange("shuffle xor", value, mask, [](emulator::Plane &p) {
        for (unsigned lane = 0; lane < 32; lane++) p.out[lane][0] = p.in[lane ^ p.in[lane][1]][0];
    });
}
template <typename T> static T __shfl_sync(unsigned, T value, uint32_t from) {
    return emulator::exchange("shuffle", value, from, [](emulator::Plane &p) {
        for (unsigned lane = 0; lane < 32; lane++) p.out[lane][0] = p.in[p.in[lane][1] % 32][0];
    });
}
template <typename T> static T __shfl_down_sync(unsigned, T value, uint32_t by) {
    return emulator::exchange("shuffle down", value, by, [](emulator::Plane &p) {
        for (unsigned lane = 0; lane < 32; lane++) p.out[lane][0] = p.in[lane + p.in[lane][1] < 32 ? lane + p.in[lane][1] : lane][0];
    });
}
template <typename T> static T __shfl_up_sync(unsigned, T value, uint32_t by) {
    return emulator::exchange("shuffle up", value, by, [](emulator::Plane &p) {
        for (unsigned lane = 0; lane < 32; lane++) p.out[lane][0] = p.in[lane >= p.in[lane][1] ? lane - p.in[lane][1] : lane][0];
    });
}
static uint32_t __ballot_sync(unsigned, bool value) {
    return emulator::exchange("ballot", uint32_t(value), 0, [](emulator::Plane &p) {
        uint32_t all = 0;
        for (unsigned lane = 0; lane < 32; lane++) all |= p.in[lane][0] << lane;
        for (unsigned lane = 0; lane < 32; lane++) p.out[lane][0] = all;
    });
}
static int __ffs(int x) { return __builtin_ffs(x); }

// Whatever a plane does together it does at one line.
#define mma(...) at_line(__LINE__), emulator::mma(__VA_ARGS__)
#define ldmatrix(...) at_line(__LINE__), emulator::ldmatrix(__VA_ARGS__)
#define ldmatrix_transposed(...) at_line(__LINE__), emulator::ldmatrix_transposed(__VA_ARGS__)
#define __shfl_xor_sync(...) (emulator::at_line(__LINE__), __shfl_xor_sync(__VA_ARGS__))
#define __shfl_sync(...) (emulator::at_line(__LINE__), __shfl_sync(__VA_ARGS__))
#define __shfl_down_sync(...) (emulator::at_line(__LINE__), __shfl_down_sync(__VA_ARGS__))
#define __shfl_up_sync(...) (emulator::at_line(__LINE__), __shfl_up_sync(__VA_ARGS__))
#define __ballot_sync(...) (emulator::at_line(__LINE__), __ballot_sync(__VA_ARGS__))
