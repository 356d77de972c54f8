"""What trainings, samples and evaluations are asked for: frozen dataclasses, each field a flag of the command line."""
