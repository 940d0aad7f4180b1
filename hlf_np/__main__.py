"""Run the command line: `python -m hlf_np`."""

from hlf_np.cli import main

main()
