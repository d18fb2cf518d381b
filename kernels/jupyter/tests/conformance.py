"""The Jupyter project's own conformance suite on the installed kernel.

    pip install jupyter_kernel_test
    attention-kernel install --workspace . --prefix PREFIX
    JUPYTER_PATH=PREFIX/share/jupyter python kernels/jupyter/tests/conformance.py

`cargo test --workspace --test conformance -- --ignored` does the last two, with the Python that
ATTENTION_JUPYTER_PYTHON names.
"""

import unittest

# The module and not the class: unittest would run an imported class as well, on Python's kernel.
import jupyter_kernel_test

DISPLAY = 'attention::cell_runtime::display("{}", "{}");'


class AttentionKernelTests(jupyter_kernel_test.KernelTests):
    kernel_name = "attention"
    language_name = "rust"
    file_extension = ".rs"

    code_hello_world = 'println!("hello, world");'
    code_stderr = 'eprintln!("oops");'
    code_generate_error = "assert_eq!(1 + 1, 3);"
    code_clear_output = "attention::cell_runtime::clear_output(false);"
    code_inspect_sample = "let_me_see"

    complete_code_samples = ["1 + 1", 'println!("x");', "fn f() {\n}"]
    incomplete_code_samples = ["fn f() {", "vec![1,", "let x ="]

    completion_samples = [
        {"text": "let_me_", "matches": {"let_me_see"}},
        {"text": "%timei", "matches": {"%timeit"}},
        {"text": "no_such_name"},
    ]

    code_execute_result = [
        {"code": "1 + 2", "result": "3"},
        {"code": "vec![1, 2]", "result": "[1, 2]"},
        {"code": '"a".repeat(3)', "result": '"aaa"'},
    ]
    code_history_pattern = "1 +*"
    supported_history_operations = ("tail", "range", "search")

    code_display_data = [
        {"code": DISPLAY.format("text/html", "<b>1</b>"), "mime": "text/html"},
        {"code": DISPLAY.format("image/svg+xml", "<svg/>"), "mime": "image/svg+xml"},
    ]

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.kc.execute_interactive("let let_me_see = 1;", timeout=60)


if __name__ == "__main__":
    unittest.main()
