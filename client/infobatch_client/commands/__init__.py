"""The client's subcommands of `infobatch`: one module each, with HELP, add_arguments and run."""
