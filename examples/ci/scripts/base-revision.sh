#!/bin/sh
# Print the commit that the gate compares with.
#
#   base-revision.sh BRANCH BEFORE
#
# BRANCH: the target of a change request; then it is the commit where HEAD left that branch, so that
# what others merged meanwhile is not held against the change.
# BEFORE: what a branch was before a push, if BRANCH is empty. It is all zeros in a manual run, and
# not in the clone after a forced push: then it is the parent of HEAD.
set -eu

branch=${1-}
before=${2-}

fail() {
    echo "base-revision.sh: $1" >&2
    exit 1
}

if [ -n "$branch" ]; then
    git merge-base "origin/$branch" HEAD ||
        fail "no commit in common with origin/$branch; is the clone shallow?"
elif [ -n "$before" ] && git rev-parse --quiet --verify "$before^{commit}"; then
    :
else
    git rev-parse --quiet --verify "HEAD^1^{commit}" ||
        fail "HEAD has no parent to compare with; is the clone shallow?"
fi
