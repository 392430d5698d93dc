#!/bin/sh
# Run the tiny pipeline on a base commit and on the current one; write the difference of the headline metrics.
#
#   .github/compare_metrics.sh BASE OUTPUT
#
# Both runs happen here and now, because metrics of another profile or machine say nothing about the change.
# Ends on the current commit, with its run in the working tree.
set -eu

base=$1
output=$2
repro=${REPRO:-make repro PROFILE=tiny}
export PATH="$PWD/.venv/bin:$PATH"
current=$(git rev-parse HEAD)

git checkout --quiet --detach "$base"
$repro
git add --update
git -c user.name=ci -c user.email=ci@localhost commit --quiet --allow-empty --no-verify --message "run of the base"
measured=$(git rev-parse HEAD)

git checkout --quiet --detach "$current"
$repro
{
    echo "Headline metrics of the tiny pipeline, before and after this change:"
    echo
    difference=$(dvc metrics diff --md "$measured")
    echo "${difference:-No metric changed.}"
} > "$output"
