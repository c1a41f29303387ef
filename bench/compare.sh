#!/bin/sh
# compare.sh base package bench time count benchstat: the benchmarks of this tree
# and of the revision base, by turns, and what benchstat makes of them. The test
# binaries are built first, so that nothing but the benchmarks runs in between.
set -eu
base=$1 package=$2 bench=$3 time=$4 count=$5 benchstat=$6
go=${GO:-go}
dir=$(mktemp -d)
tidy() { git worktree remove --force "$dir/base" 2>/dev/null || :; rm -rf "$dir"; }
trap tidy EXIT
trap 'exit 1' INT TERM
git worktree add --quiet --detach "$dir/base" "$base"
here=$PWD
"$go" test -c -o "$dir/new.test" "$package"
(cd "$dir/base" && "$go" test -c -o "$dir/old.test" "$package")
turn() { # name, directory
	(cd "$2/$package" && "$dir/$1.test" -test.short -test.run '^$' -test.bench "$bench" -test.benchtime "$time" -test.timeout 60m) \
		>"$dir/turn.txt" || { cat "$dir/turn.txt"; exit 1; }
	cat "$dir/turn.txt" >>"$dir/$1.txt"
}
i=0
while [ $i -lt "$count" ]; do
	i=$((i + 1))
	echo "# turn $i of $count" >&2
	if [ $((i % 2)) = 1 ]; then
		turn old "$dir/base" && turn new "$here"
	else
		turn new "$here" && turn old "$dir/base"
	fi
done
"$go" run "$benchstat" "base=$dir/old.txt" "new=$dir/new.txt"
