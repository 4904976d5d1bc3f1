#!/bin/sh
# A corpus on all cores of this machine, with GNU parallel:
#
#     sh parallel.sh corpus.csv separated
#
# Ctrl-C stops it; the same command again does what is missing or failed. Without GNU parallel, xargs does the same:
#
#     seq 8 | xargs -P 8 -I{} unmingle separate corpus.csv -o separated --shard {}/8

corpus=$1
output=$2
cores=$(nproc)
seq "$cores" | parallel --line-buffer --tag -j "$cores" unmingle separate "$corpus" -o "$output" --shard "{}/$cores"
