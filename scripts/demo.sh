#!/usr/bin/env bash
# Sets up, meta-trains a few-shot classifier on letters (the Glyphs tasks, no download) and tests it on scripts that it
# never saw. Arguments go to `litmaml fit`: bash scripts/demo.sh --trainer.max_epochs=2
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
run=runs/demo # an earlier one is moved to runs/demo.1, ...

bash scripts/setup.sh
SECONDS=0
.venv/bin/litmaml fit -c configs/glyphs.yaml --trainer.default_root_dir="$run" "$@"
.venv/bin/litmaml test --ckpt_path="$run"

cat <<END

Trained and tested in $SECONDS s. In $run:
  test_results.json       accuracy after each inner step with 95% confidence intervals, and the protocol
  adaptation.png          the same as a picture
  checkpoints/best.ckpt   the model; try it with more steps:
                          .venv/bin/litmaml test --ckpt_path=$run --model.test_inner_steps=10
  config.yaml             every setting of this run
  logs                    the training curves, metrics.csv
END
