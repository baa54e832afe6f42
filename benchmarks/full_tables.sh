#!/usr/bin/env bash
# The full-budget tables of neural models on a GPU, one by one, each with its own time, records in results/.
#
#   benchmarks/full_tables.sh                     all of them on cuda
#   benchmarks/full_tables.sh gumbel jsb          some of them
#   BUDGET=quick DEVICE=cpu OUT=runs/try benchmarks/full_tables.sh gmvae
#                                                 the same commands anywhere, to see that they run
#   DRY=1 benchmarks/full_tables.sh               print the commands
#
# It needs a checkout, a Python with its packages, the data sets' files, and a GPU that torch can use. On a machine
# without a network: fetch wheels elsewhere by `pip download -d wheels -e .`, carry the checkout, `wheels` and the data,
# then `pip install --no-index --find-links wheels -e .` and `export ZOO_DATA=...`; `zoo data` says what is there.
# Each table is stopped after SECONDS_EACH (600). A record is written when all rows of its table are done; what is done
# before is kept beside it (.run), and the same command goes on from there, as often as it takes: ten minutes at a time.
# A table whose record is in OUT (results) is not run again.
#
# What each needs, and its seconds of processor time on two cores where results/ has a record. On an H100, beside other
# tables and tests, gumbel took 342 s, pcfg with --jobs 3 226 s, gmvae 258 s and beta_vae, with --jobs 5, 257 s (results/
# has all four). jsb was stopped after 427 s, in epoch 50 to 100 of its first network's 500.
#
#   pcfg      data treebank10; 143 s. Charts of short sentences: many small steps, a GPU is hardly faster.
#   jsb       data jsb; 568 s. Steps along chords: the same.
#   gumbel    data binarized_mnist, 157 MB as float32; 1610 s.
#   gmvae     data mnist, 188 MB as float32; 2353 s, of which k-means stays on the processor.
#   beta_vae  no files; recorded on a GPU alone: ten fits of 1500 epochs, where the quick budget's of 150 take 18 to
#             25 s each.
#   iwae      data mnist, 188 MB as float32; not recorded: five rows of 3280 epochs of 3000 steps. At a millisecond a
#             step that is three hours a row; k = 50 takes more: SECONDS_EACH=86400, or a hundred times ten minutes.
#
# Networks have fewer than two million weights each: a few GB on the device are enough for any of them.
set -euo pipefail
cd "$(dirname "$0")/.."
export PYTHONUNBUFFERED=1
device=${DEVICE:-cuda} budget=${BUDGET:-full} out=${OUT:-results} limit=${SECONDS_EACH:-600}
tables=("$@")
[ ${#tables[@]} -gt 0 ] || tables=(pcfg jsb gumbel gmvae beta_vae iwae)
failed=0
for table in "${tables[@]}"; do
  command=("${PYTHON:-python}" -m zoo reproduce "$table" --budget "$budget" --device "$device" --resume
           --out "$out/reproduce_${table}_${budget}_${device%%:*}.json")
  echo "${command[*]}"
  [ -z "${DRY:-}" ] || continue
  timeout --signal=INT "$limit" "${command[@]}" || { echo "$table: no record yet (exit $?)" >&2; failed=1; }
done
exit $failed
