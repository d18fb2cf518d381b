//! Runs a generated kernel on the CPU: the host's C++ compiler and `emulator.h` stand in for a GPU.

use burn::tensor::DType;
use kernels::cuda::kernel::Kernel;
use kernels::cuda::program::{Emulator, Numbers};
use kernels::cuda::source::Source;
use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock, Mutex};

/// What stands in for a GPU; it compiles every kernel once.
pub fn emulator() -> Emulator {
    choosing(0)
}

/// The same; of kernels that compute the same it runs the one at `choice`, or the last.
pub fn choosing(choice: usize) -> Emulator {
    let compiled = Mutex::new(HashMap::<String, Arc<Emulated>>::new());
    Arc::new(move |kernels: &[Kernel], buffers: &mut [Numbers]| {
        let kernel = &kernels[choice.min(kernels.len() - 1)];
        let known = compiled.lock().unwrap().get(&kernel.name).cloned();
        let emulated = known.unwrap_or_else(|| Arc::new(Emulated::compile(&kernel.source())));
        compiled.lock().unwrap().insert(kernel.name.clone(), emulated.clone());
        emulated.run(kernel, buffers);
    })
}

/// A kernel as an executable.
struct Emulated {
    directory: PathBuf,
    name: String,
    shared: usize,
    /// Of every buffer.
    dtypes: Vec<DType>,
}

/// `emulator.h` and what the compiler makes of it beforehand, in a folder that stays for the next run.
static HEADER: LazyLock<PathBuf> = LazyLock::new(|| {
    let header = include_str!("emulator.h");
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulator");
    let (text, compiled) = (directory.join("emulator.h"), directory.join("emulator.h.gch"));
    if std::fs::read_to_string(&text).is_ok_and(|there| there == header) && compiled.exists() {
        return directory;
    }
    std::fs::create_dir_all(&directory).unwrap();
    // Under names of this process first: another may look at the same time.
    let own = directory.join(format!("{}.h", std::process::id()));
    let made = directory.join(format!("{}.gch", std::process::id()));
    std::fs::write(&own, header).unwrap();
    let [from, to] = [&own, &made].map(|path| path.to_str().expect("a path in UTF-8"));
    compile(&["-x", "c++-header", from, "-o", to], &directory, "emulator.h");
    std::fs::rename(made, compiled).unwrap();
    std::fs::rename(own, text).unwrap();
    directory
});

/// Runs the C++ compiler in `directory`.
fn compile(arguments: &[&str], directory: &Path, what: &str) {
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let done = Command::new(&compiler)
        .args(["-std=c++17", "-O1", "-fno-strict-aliasing", "-w"])
        .args(arguments)
        .current_dir(directory)
        .output()
        .unwrap_or_else(|error| panic!("{compiler}: {error}; emulating kernels needs a C++ compiler"));
    assert!(done.status.success(), "{what}: {}", String::from_utf8_lossy(&done.stderr));
}

impl Emulated {
    /// Needs a C++ compiler, `c++` or what `CXX` names.
    fn compile(source: &Source) -> Self {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let unique = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let directory = std::env::temp_dir().join(format!("emulated-kernel-{}-{unique}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("kernel.cpp"), program(source)).unwrap();
        let header = format!("-I{}", HEADER.display());
        compile(&[&header, "kernel.cpp", "-o", "kernel"], &directory, &source.name);
        Self { directory, name: source.name.clone(), shared: source.shared, dtypes: dtypes(source) }
    }

    /// Runs it on `buffers`, in the order of the arguments, and leaves in them what it wrote.
    fn run(&self, kernel: &Kernel, buffers: &mut [Numbers]) {
        assert_eq!(self.dtypes.len(), buffers.len(), "{}: buffers", self.name);
        for ((visits, compiled), given) in kernel.buffers.iter().zip(&self.dtypes).zip(buffers.iter()) {
            // What the kernel does not look at may be anything.
            let fits = visits.count == 0 || *compiled == given.dtype;
            assert!(fits, "{}: `{}` is {:?}, {compiled:?} is read", self.name, visits.name, given.dtype);
        }
        let mut input = Vec::new();
        let mut word = |x: u32| input.extend(x.to_le_bytes());
        kernel.cubes.into_iter().chain(kernel.threads()).for_each(&mut word);
        let (floats, integers) = kernel.by_type();
        word(self.shared as u32);
        // The kernel's fields are padded to 8 bytes.
        let padded = |words: Vec<u32>| [words.clone(), vec![0; words.len() % 2]].concat();
        padded(floats.iter().map(|x| x.to_bits()).collect()).into_iter().for_each(&mut word);
        padded(integers).into_iter().for_each(&mut word);
        buffers.iter().for_each(|buffer| word(buffer.bytes.len() as u32));
        buffers.iter().for_each(|buffer| input.extend(&buffer.bytes));
        let path = self.directory.join("input");
        std::fs::File::create(&path).unwrap().write_all(&input).unwrap();
        let done = Command::new(self.directory.join("kernel")).current_dir(&self.directory).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{}: {} {said}", self.name, done.status);
        let output = std::fs::read(self.directory.join("output")).unwrap();
        let mut rest = output.as_slice();
        for buffer in buffers {
            let (mine, others) = rest.split_at(buffer.bytes.len());
            buffer.bytes.copy_from_slice(mine);
            rest = others;
        }
        assert!(rest.is_empty());
    }
}

impl Drop for Emulated {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

/// Instructions in `asm` and what emulates them.
const INSTRUCTIONS: &[(&str, &str)] = &[
    ("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 ", "mma"),
    ("ldmatrix.sync.aligned.m8n8.x4.shared::cta.b16 ", "ldmatrix"),
    ("ldmatrix.sync.aligned.m8n8.x4.trans.shared::cta.b16 ", "ldmatrix_transposed"),
    ("cp.async.cg.shared::cta.global [%0], [%1], 16, ", "copy_async<16>"),
    ("cp.async.ca.shared::cta.global [%0], [%1], 8, ", "copy_async<8>"),
    ("cp.async.commit_group;", "commit"),
    ("cp.async.wait_group 1;", "wait_for_all_but<1>"),
    ("cp.async.wait_group 0;", "wait_for_all_but<0>"),
    ("ex2.approx.ftz.f32 ", "ex2"),
];

/// What the kernel is given, as in C++.
fn arguments<'a>(text: &'a str, function: &str) -> &'a str {
    let start = text.find(function).unwrap() + function.len() + 1;
    &text[start..start + text[start..].find(')').unwrap()]
}

/// What its buffers hold: `__nv_bfloat16_2 const`.
fn pointers(arguments: &str) -> Vec<&str> {
    arguments.split(',').filter_map(|a| Some(a.split_once("* const __restrict__")?.0.trim())).collect()
}

/// The same without vectors.
fn dtypes(source: &Source) -> Vec<DType> {
    let dtype = |pointer: &&str| {
        let ty = pointer.trim_end_matches("const").trim();
        let element = ty.trim_end_matches(|c: char| c.is_ascii_digit()).strip_suffix('_').unwrap_or(ty);
        match element {
            "float" => DType::F32,
            "__nv_bfloat16" => DType::BF16,
            "int32_t" | "int32" => DType::I32,
            "uint32_t" | "uint32" => DType::U32,
            _ => panic!("{}: a buffer of `{pointer}`", source.name),
        }
    };
    pointers(arguments(&source.text, &source.function)).iter().map(dtype).collect()
}

/// The kernel between `emulator.h` and a `main` that reads arguments and writes buffers.
fn program(source: &Source) -> String {
    let mut text = without_assembly(&source.text, &source.name);
    // These come from the host's headers; `uint64_t` is another type there.
    let own = |line: &&str| {
        !(line.starts_with("typedef unsigned") || line.starts_with("typedef signed") || line.starts_with("#include"))
    };
    text = text.lines().filter(own).collect::<Vec<_>>().join("\n");
    if let Some(start) = text.find("extern __shared__ ") {
        let end = start + text[start..].find("[];").unwrap();
        let name = text[start..end].rsplit(' ').next().unwrap().to_string();
        text.replace_range(start..end + 3, &format!("char *const {name} = emulator::shared;"));
    }

    let arguments = arguments(&text, &source.function);
    let pointers = pointers(arguments);
    let count = |field: &str| {
        let Some(start) = text.find(field) else { return 0 };
        let digits = &text[start + field.len()..];
        digits[..digits.find(']').unwrap()].parse::<usize>().unwrap()
    };
    let (floats, integers) = (count("float scalars_f32["), count("uint32_t scalars_u32["));
    let mut main = String::from("int main() {\nusing namespace emulator;\nFILE *in = fopen(\"input\", \"rb\");\n");
    main += "grid.x = word(in), grid.y = word(in), grid.z = word(in);\n";
    main += "cube.x = word(in), cube.y = word(in), cube.z = word(in);\nsize_t shared_bytes = word(in);\n";
    let has_info = arguments.contains("info_st");
    if has_info {
        main += "info_st info = {};\n";
    }
    for i in 0..floats {
        main += &format!("{{ uint32_t x = word(in); memcpy(&info.scalars_f32[{i}], &x, 4); }}\n");
    }
    for i in 0..integers {
        main += &format!("info.scalars_u32[{i}] = word(in);\n");
    }
    let many = pointers.len();
    main +=
        &format!("std::vector<Buffer> buffers;\nfor (int i = 0; i < {many}; i++) buffers.emplace_back(word(in));\n");
    main += "for (Buffer &b : buffers) if (fread(b.data, 1, b.size, in) != b.size) return 2;\n";
    main += "if (fgetc(in) != EOF) { fprintf(stderr, \"more arguments than the kernel has\\n\"); return 2; }\n";
    let mut given: Vec<String> =
        pointers.iter().enumerate().map(|(i, ty)| format!("({ty} *)buffers[{i}].data")).collect();
    if has_info {
        given.push("info".into());
    }
    main += &format!("kernel = [&] {{ {}({}); }};\n", source.function, given.join(", "));
    main += "for (block.z = 0; block.z < grid.z; block.z++)\nfor (block.y = 0; block.y < grid.y; block.y++)\n";
    main += "for (block.x = 0; block.x < grid.x; block.x++) run_block(shared_bytes);\n";
    main += "FILE *out = fopen(\"output\", \"wb\");\nfor (Buffer &b : buffers) { b.check(); fwrite(b.data, 1, b.size, out); }\n";
    main += "return fclose(out);\n}\n";
    format!("#include \"emulator.h\"\n{text}\n{main}")
}

/// Every `asm volatile("instruction" : "=r"(out) : "r"(in) : "memory")` as a call.
fn without_assembly(text: &str, name: &str) -> String {
    let mut result = String::new();
    let mut rest = text;
    while let Some(start) = rest.find("asm volatile(\"") {
        result += &rest[..start];
        let instruction = &rest[start + "asm volatile(\"".len()..];
        let end = start + rest[start..].find(");").unwrap();
        let (_, function) = INSTRUCTIONS
            .iter()
            .find(|(prefix, _)| instruction.starts_with(prefix))
            .unwrap_or_else(|| panic!("{name}: no emulation of {}", &instruction[..instruction.len().min(80)]));
        // Operands stand in parentheses behind their kind: `"=f"(result.i_0)`.
        let operands = &rest[start + "asm volatile(".len()..end + 1];
        let operands: Vec<&str> =
            operands.split("\"(").skip(1).map(|operand| &operand[..operand.find(')').unwrap()]).collect();
        result += &format!("emulator::{function}({})", operands.join(", "));
        rest = &rest[end + 1..];
    }
    result + rest
}

#[test]
#[should_panic(expected = "`gate` is BF16, F32 is read")]
fn memory_of_another_dtype_than_a_kernel_was_compiled_for_is_refused() {
    use kernels::swiglu::cuda::kernels::Call;
    let kernel = Call { rows: 1, width: 4, stride: 4, dtype: DType::F32 }.forward();
    let mut buffers = [DType::BF16, DType::F32, DType::F32].map(|dtype| Numbers { dtype, bytes: vec![0; 16] });
    emulator()(&[kernel], &mut buffers);
}
