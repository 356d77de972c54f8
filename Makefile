PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/demo
INSTALLED := $(VENV)/.installed
SPACE := .venv-space
# where `make lint` looks at the tree as it is installed, with pipelines/ inside of hfgen
HOUSE := build/house
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist worksteal

.PHONY: demo space test test-fast lint docs wheel fix-copies model-zoo clean

demo: $(DEMO)/trajectory.gif
	@echo
	@echo "$(DEMO)                  the pipeline: hfgen.load(\"$(DEMO)\").pipeline"
	@echo "$(DEMO)/samples.png      100 digits, a column for each class"
	@echo "$(DEMO)/trajectory.gif   from noise to digits"
	@echo "$(DEMO)/loss.png         training and held-out loss"
	@echo
	@echo "next: $(BIN)/hfgen sample $(DEMO) --class_labels 7 --guidance_scale 2 --out sevens.png"
	@echo "      $(BIN)/hfgen sample model_cards/ddpm-mnist --num_images 64 --out mnist.png"

$(DEMO)/trajectory.gif: | $(INSTALLED)
	$(BIN)/accelerate launch --quiet --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no \
		training/train_ddpm.py --config training/digits-class-conditional.yaml --output_dir $(DEMO) --resume_from_checkpoint latest
	$(BIN)/hfgen sample $(DEMO) --num_images 100 --batch_size 100 --guidance_scale 2 --seed 0 --out $(DEMO)/samples.png --trajectory $(DEMO)/trajectory.gif

# a page in the browser; $(BIN)/hfgen publish --space pushes it
space: $(SPACE)/.installed
	$(SPACE)/bin/python demo/app.py

test: $(INSTALLED)
	$(PYTEST)

test-fast: $(INSTALLED)
	$(PYTEST) -m "not slow"

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/typos
	$(BIN)/mypy
	rm -rf $(HOUSE) && mkdir -p $(HOUSE) && cp -R hfgen $(HOUSE)/hfgen && cp -R pipelines $(HOUSE)/hfgen/pipelines
	cd $(HOUSE) && $(CURDIR)/$(BIN)/lint-imports --no-logo --no-cache $(CURDIR)/.importlinter
	$(BIN)/python .ci/copies.py
	$(BIN)/python .ci/model_zoo.py --check

docs: $(INSTALLED)
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html

# a build folder of earlier may hold modules that are no more
wheel: $(INSTALLED)
	rm -rf dist build/lib build/bdist.*
	$(BIN)/python -m build --wheel --outdir dist .

fix-copies: $(INSTALLED)
	$(BIN)/python .ci/copies.py --fix

model-zoo: $(INSTALLED)
	$(BIN)/python .ci/model_zoo.py

# torch comes first and alone: an environment that has it takes no other build of it
$(INSTALLED): pyproject.toml setup.py constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

# gradio wants an older pillow than the one that all else is tested with
$(SPACE)/.installed: pyproject.toml setup.py constraints.txt demo/README.md
	$(PYTHON) -m venv $(SPACE)
	grep -v "^pillow==" constraints.txt > $(SPACE)/constraints.txt
	$(SPACE)/bin/python -m pip install --quiet --constraint $(SPACE)/constraints.txt torch
	$(SPACE)/bin/python -m pip install --quiet --constraint $(SPACE)/constraints.txt --editable . \
		gradio==$$(sed -n "s/^sdk_version: //p" demo/README.md)
	touch $@

clean:
	rm -rf $(VENV) $(SPACE) runs/demo build dist docs/_build hfgen.egg-info
