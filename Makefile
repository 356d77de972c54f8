PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/demo
INSTALLED := $(VENV)/.installed

.PHONY: demo test lint wheel clean

demo: $(DEMO)/trajectory.gif
	@echo
	@echo "$(DEMO)                  the pipeline: DiffusionPipeline.from_pretrained(\"$(DEMO)\")"
	@echo "$(DEMO)/samples.png      64 digits"
	@echo "$(DEMO)/trajectory.gif   from noise to digits"
	@echo "$(DEMO)/loss.png         training and held-out loss"
	@echo
	@echo "next: $(BIN)/hfgen sample $(DEMO) --seed 1 --out more.png"
	@echo "      $(BIN)/hfgen sample model_cards/ddpm-mnist --num_images 64 --out mnist.png"

$(DEMO)/trajectory.gif: | $(INSTALLED)
	$(BIN)/accelerate launch --quiet --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no \
		training/train_ddpm.py --config training/digits.yaml --output_dir $(DEMO) --resume_from_checkpoint latest
	$(BIN)/hfgen sample $(DEMO) --scheduler ddpm --num_images 64 --seed 0 --out $(DEMO)/samples.png --trajectory $(DEMO)/trajectory.gif

test: $(INSTALLED)
	$(BIN)/python -m pytest

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

wheel: $(INSTALLED)
	rm -rf dist
	$(BIN)/python -m build --wheel --outdir dist .

# torch comes first and alone: an environment that has it takes no other build of it
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) runs/demo build dist hfgen.egg-info
