"""The workbench in the browser: what ``vbmstat ui`` serves on this machine. The functions of the package answer."""
