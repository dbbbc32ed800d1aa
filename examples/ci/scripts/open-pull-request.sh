#!/bin/sh
# Open a pull request on GitHub for what propose-lock.sh pushed, or update the one that is open.
#
# Needs gh. Variables: GH_TOKEN, BASE (the target branch), and as you like BRANCH, TITLE, and NOTE
# (the first lines of the description).
set -eu

branch=${BRANCH:-autotune/lock}
title=${TITLE:-Update autotune.lock.json}
limit=50000 # of GitHub's 65,536 characters

if ! git rev-parse --quiet --verify refs/autotune/proposed >/dev/null; then
    echo "nothing was proposed"
    exit 0
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
git show --no-color --format= refs/autotune/proposed >"$scratch/diff"
{
    printf '%s\n\n~~~~diff\n' "${NOTE:-A tuning run found this.}"
    head -c "$limit" "$scratch/diff"
    printf '\n~~~~\n'
    if [ "$(wc -c <"$scratch/diff")" -gt "$limit" ]; then
        printf '\nThe rest is left out here.\n'
    fi
} >"$scratch/body"

open=$(gh pr list --head "$branch" --state open --json number,isCrossRepository \
    --jq 'map(select(.isCrossRepository | not)) | .[0].number // empty')
if [ -n "$open" ]; then
    # Not 'gh pr edit': it asks for more rights than it needs.
    gh api --silent --method PATCH "repos/{owner}/{repo}/pulls/$open" -F "body=@$scratch/body"
    echo "updated pull request $open"
else
    gh pr create --base "${BASE:?}" --head "$branch" --title "$title" --body-file "$scratch/body"
fi
