"""Run the notebooks of this folder anew and keep their outputs: `make notebooks`, some minutes on two cores.

Kept is what a reader of the page wants to see: results and pictures, no progress, no warnings, no times.
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient


def execute(path: Path) -> None:
    """Run one notebook in a kernel of its own, and write it in place."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=None, coalesce_streams=True, record_timing=False).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]
            for output in cell.outputs:  # the text that stands for a picture is of no use beside it
                if any(kind.startswith("image/") for kind in output.get("data", {})):
                    output.data.pop("text/plain", None)
    notebook.metadata["language_info"] = {"name": "python"}
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for chosen in map(Path, sys.argv[1:] or sorted(Path(__file__).parent.glob("*.ipynb"))):
        execute(chosen)
