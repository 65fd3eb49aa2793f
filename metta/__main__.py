"""`python -m metta TOOL key=value ...`: the command `metta`, where only the interpreter is at hand."""

import sys

from metta.tools.main import main

if __name__ == "__main__":
    sys.exit(main())
