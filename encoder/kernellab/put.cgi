#!/bin/sh
# Stores the posted bytes under the path that is the query string.
f=$QUERY_STRING
mkdir -p "$(dirname "$f")" && cat >"$f.part" && chmod 755 "$f.part" && mv "$f.part" "$f"
printf 'Content-Type: text/plain\r\nX-Exit: %d\r\n\r\n' "$?"
wc -c <"$f"
