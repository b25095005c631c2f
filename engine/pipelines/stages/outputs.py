"""Names of the files that one stage writes and others read, apart from the stages so that reading needs no torch."""

from __future__ import annotations

MODEL = "model"
"""Of `train`: a directory with model.safetensors, config.json and tokenizer.json."""
TRAINING = "training.json"
"""Of `train`: recipe, environment, curve, data set."""
EVALUATION = "evaluation.json"
"""Of `evaluate`: both scores and their difference."""
ANSWERS = "answers.json"
"""Of `evaluate`: what the model answers to the fixed prompts."""
BUNDLE = "bundle"
"""Of `register` and `release`: what is served."""
REGISTRATION = "registration.json"
"""Of `register`: which version of the registry the bundle became."""
