"""Runs a notebook headless and saves it with its outputs.

The notebook comes in on standard input (`cargo lab notebook --execute` sets its parameters before)
and goes to --output, whole, also when a cell failed or Ctrl-C was pressed. Exit status: 0 all cells
ran, 1 a cell or the kernel failed, 130 interrupted.
"""

import argparse
import asyncio
import os
import re
import signal
import sys
import tempfile
import time

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat.sign import NotebookNotary

ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
COLOUR = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
RESULT_LINES = 16  # of a displayed value; streams are shown whole


def say(text="", style=None):
    if style and COLOUR:
        text = f"\x1b[{style}m{text}\x1b[0m"
    print(text if COLOUR else ANSI.sub("", text), flush=True)


def save(notebook, path):
    """Complete under another name first, then renamed: no crash leaves half a notebook."""
    folder = os.path.dirname(os.path.abspath(path))
    handle, partial = tempfile.mkstemp(dir=folder, prefix=".saving-", suffix=".ipynb")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            nbformat.write(notebook, file)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(partial, os.stat(path).st_mode if os.path.exists(path) else 0o666 & ~mask)
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise
    # What was just run here may show its pictures when it is opened.
    NotebookNotary().sign(notebook)


class Runner(NotebookClient):
    """nbclient, telling what happens while it happens."""

    def __init__(self, notebook, **options):
        super().__init__(notebook, **options)
        self.total = sum(cell.cell_type == "code" and bool(cell.source.strip()) for cell in notebook.cells)
        self.number = 0
        self.cell = None
        self.interrupts = 0
        self.line_open = False

    async def async_start_new_kernel(self, **options):
        # nbclient's own handlers would kill the kernel; a first Ctrl-C interrupts the cell.
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        for sig in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(sig, self.stop, task, sig)
        started = time.monotonic()
        say("      starting the kernel")
        await super().async_start_new_kernel(**options)
        self.started = started

    async def async_start_new_kernel_client(self):
        client = await super().async_start_new_kernel_client()
        say(f"      the kernel answers after {time.monotonic() - self.started:.1f} s")
        return client

    def stop(self, task, sig):
        self.interrupts += 1
        if self.cell is None or self.interrupts > 1 or sig == signal.SIGTERM:
            task.cancel()
            return
        self.write("\ninterrupting the cell (Ctrl-C again stops the kernel)\n")
        asyncio.ensure_future(self.km.interrupt_kernel())

    async def async_execute_cell(self, cell, cell_index, **options):
        if cell.cell_type != "code" or not cell.source.strip():
            return await super().async_execute_cell(cell, cell_index, **options)
        if self.interrupts:
            raise asyncio.CancelledError
        self.number, self.cell = self.number + 1, cell
        say(f"[{self.number:>{len(str(self.total))}}/{self.total}] {first_line(cell.source)}", "1")
        started = time.monotonic()
        try:
            done = await super().async_execute_cell(cell, cell_index, **options)
        finally:
            self.write("", end=True)
            say(f"      {time.monotonic() - started:.2f} s", "2")
        self.cell = None
        return done

    def process_message(self, msg, cell, cell_index):
        content = msg["content"]
        if msg["msg_type"] == "stream":
            self.write(content["text"])
        elif msg["msg_type"] in ("execute_result", "display_data"):
            self.show(content["data"])
        return super().process_message(msg, cell, cell_index)

    def show(self, data):
        rich = [f"[{kind}, {len(str(value)) / 1000:.1f} kB]" for kind, value in data.items() if kind != "text/plain"]
        plain = "".join(data.get("text/plain", "")).splitlines()
        if len(plain) > RESULT_LINES:
            plain = plain[:RESULT_LINES] + [f"… {len(plain) - RESULT_LINES} more lines"]
        self.write("", end=True)
        self.write("\n".join(plain + rich) + "\n")

    def write(self, text, end=False):
        """A stream's text as it comes, every line behind a bar."""
        for piece in re.split(r"(\n|\r)", text):
            if piece in ("\n", "\r") and self.line_open:
                print(flush=True)
                self.line_open = False
            elif piece and piece not in ("\n", "\r"):
                bar = "" if self.line_open else "      │ "
                print(bar + (piece if COLOUR else ANSI.sub("", piece)), end="", flush=True)
                self.line_open = True
        if end and self.line_open:
            print(flush=True)
            self.line_open = False

    def fail(self, problem):
        say()
        if self.cell is not None:
            say(f"cell {self.number} of {self.total} failed:", "1;31")
            for line in self.cell.source.splitlines():
                say(f"    {line}")
            say()
        say(problem.rstrip())


def first_line(source):
    lines = [line.strip() for line in source.splitlines() if line.strip()]
    told = next((line for line in lines if not line.startswith("//")), lines[0])
    return told if len(told) <= 88 else told[:87] + "…"


def error_text(cell, failure):
    """What the kernel reported, colours and all; nbclient's text repeats the source."""
    for output in reversed(cell.outputs):
        if output.output_type == "error":
            text = "\n".join(output.traceback)
            return text or f"{output.ename}: {output.evalue}"
    return f"{failure.ename}: {failure.evalue}"


async def run(runner):
    try:
        await runner.async_execute()
    except CellExecutionError as failure:
        if runner.interrupts:
            say("\ninterrupted", "1;31")
            return 130
        runner.fail(error_text(runner.cell, failure))
    except CellTimeoutError:
        runner.fail(f"it ran for more than {runner.timeout} s; raise --timeout, or leave it out")
    except DeadKernelError:
        runner.fail("the kernel died; what it printed last is above (out of memory is one reason: `dmesg | tail`)")
    except asyncio.CancelledError:
        say("\ninterrupted", "1;31")
        return 130
    except RuntimeError as failure:
        runner.fail(f"the kernel did not start: {failure}")
    else:
        return 0
    return 1


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--output", required=True)
    parser.add_argument("--folder", required=True, help="the kernel's working directory")
    parser.add_argument("--kernel", required=True)
    parser.add_argument("--timeout", type=float, help="seconds per cell")
    arguments = parser.parse_args()

    notebook = nbformat.reads(sys.stdin.buffer.read().decode(), as_version=4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    runner = Runner(
        notebook,
        kernel_name=arguments.kernel,
        timeout=arguments.timeout,
        startup_timeout=600,
        record_timing=False,
        coalesce_streams=True,
        resources={"metadata": {"path": arguments.folder}},
    )
    started = time.monotonic()
    status = asyncio.run(run(runner))
    if runner.number == 0 and runner.total > 0:
        say("no cell ran; nothing was saved")
        sys.exit(status)
    save(notebook, arguments.output)
    what = f"all {runner.total} cells ran" if status == 0 else f"stopped in cell {runner.number} of {runner.total}"
    say(f"\n{what} in {time.monotonic() - started:.1f} s; saved {arguments.output}", "1")
    sys.exit(status)


main()
