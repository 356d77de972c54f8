"""One file for each command of `hfgen`: `add_parser(commands)` declares its flags, `run(args)` does its work. The training scripts share `training_script`."""
