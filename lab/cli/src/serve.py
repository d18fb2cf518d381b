"""JupyterLab, after the notebooks that ran here are marked as trusted: it hides SVG figures in others.

The first two arguments are their folders, the rest is JupyterLab's.
"""

import pathlib
import sys

import nbformat
from jupyterlab.labapp import main
from nbformat.sign import NotebookNotary

notary = NotebookNotary()
folders = [pathlib.Path(sys.argv.pop(1)) for _ in range(2)]
for path in (path for folder in folders for path in folder.glob("*.ipynb")):
    try:
        notary.sign(nbformat.read(path, as_version=4))
    except Exception as problem:
        print(f"      {path.name}: pictures may be hidden until its cells run ({problem})", file=sys.stderr)
sys.exit(main())
