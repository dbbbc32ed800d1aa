#!/bin/sh
# Commit the changed lock file, and nothing else, and push it to a branch of its own.
#
#   propose-lock.sh [OPTION of git push]...
#
# The commit's parent is HEAD, what was tuned: if the lock file has changed elsewhere meanwhile, the
# merge says so. The branch is overwritten. Working tree, index and branches of this clone are not
# touched; refs/autotune/proposed is the new commit, or is gone where nothing was proposed.
#
# Variables: LOCK, BRANCH, REMOTE (a name or URL), MESSAGE, AUTOTUNE_PUSH_TOKEN (if the clone has no
# credentials of its own that may push).
set -eu

lock=${LOCK:-autotune.lock.json}
branch=${BRANCH:-autotune/lock}
remote=${REMOTE:-origin}
message=${MESSAGE:-Update $lock}

cd "$(git rev-parse --show-toplevel)"
git update-ref -d refs/autotune/proposed

if [ ! -f "$lock" ]; then
    echo "there is no $lock: nothing to propose"
    exit 0
fi
blob=$(git hash-object -w -- "$lock")
if [ "$blob" = "$(git rev-parse --quiet --verify "HEAD:$lock")" ]; then
    echo "$lock is unchanged: nothing to propose"
    exit 0
fi

# The token goes through the environment: not into a URL, a log or a file.
export GIT_TERMINAL_PROMPT=0
remote_git() {
    if [ -n "${AUTOTUNE_PUSH_TOKEN-}" ]; then
        export AUTOTUNE_PUSH_TOKEN
        # shellcheck disable=SC2016 # git's shell expands it
        git -c credential.helper= \
            -c credential.helper='!f() { echo username=autotune; echo "password=$AUTOTUNE_PUSH_TOKEN"; }; f' \
            "$@"
    else
        git "$@"
    fi
}

heads=$(remote_git ls-remote --symref -- "$remote" HEAD)
default=$(printf '%s\n' "$heads" | sed -n 's|^ref: refs/heads/\(.*\)[[:space:]]HEAD$|\1|p')
if [ "$branch" = "$default" ]; then
    echo "propose-lock.sh: $branch is the default branch of $remote, and would be overwritten" >&2
    exit 1
fi

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export GIT_INDEX_FILE="$scratch/index"
git read-tree HEAD
git update-index --add --cacheinfo "100644,$blob,$lock"
tree=$(git write-tree)

export GIT_AUTHOR_NAME="${GIT_AUTHOR_NAME:-pytest-autotune}"
export GIT_AUTHOR_EMAIL="${GIT_AUTHOR_EMAIL:-pytest-autotune@noreply.invalid}"
export GIT_COMMITTER_NAME="${GIT_COMMITTER_NAME:-$GIT_AUTHOR_NAME}"
export GIT_COMMITTER_EMAIL="${GIT_COMMITTER_EMAIL:-$GIT_AUTHOR_EMAIL}"
commit=$(git commit-tree "$tree" -p HEAD -m "$message")

remote_git push --force "$@" -- "$remote" "$commit:refs/heads/$branch"
git update-ref refs/autotune/proposed "$commit"
echo "pushed $lock to $branch"
