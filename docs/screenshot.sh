#!/bin/sh
# Takes a picture of a report with headless Chromium.
#
#   docs/screenshot.sh REPORT.html PICTURE.png [WIDTH [HEIGHT]]
#
# WIDTH and HEIGHT are CSS pixels (1100 and 1760 unless told: the verdict, the rules, the operations
# and the curves). THEME=dark takes the dark one. SCALE=2 draws two pixels for each.
set -eu

if [ $# -lt 2 ] || [ $# -gt 4 ]; then
    echo "usage: $0 REPORT.html PICTURE.png [WIDTH [HEIGHT]]" >&2
    exit 2
fi
report=$1
picture=$2
width=${3:-1100}
height=${4:-1760}

[ -r "$report" ] || { echo "$0: cannot read $report" >&2; exit 1; }
report=$(cd "$(dirname "$report")" && pwd)/$(basename "$report")

browser=
for name in chromium chromium-browser google-chrome google-chrome-stable; do
    if command -v "$name" >/dev/null 2>&1; then
        browser=$name
        break
    fi
done
[ -n "$browser" ] || { echo "$0: no Chromium: sudo apt-get install chromium" >&2; exit 1; }

# A profile of its own, thrown away: nothing of the user's browser shows, and nothing is left.
profile=$(mktemp -d)
log=$profile/log
trap 'rm -rf "$profile"' EXIT INT TERM

set -- --headless --disable-gpu --no-first-run --disable-background-networking \
    --disable-component-update --disable-sync --hide-scrollbars "--user-data-dir=$profile" \
    "--window-size=$width,$height" "--force-device-scale-factor=${SCALE:-1}"
# Chromium has no sandbox for root; the page it shows loads nothing and runs nothing.
[ "$(id -u)" -ne 0 ] || set -- "$@" --no-sandbox
# 0 is dark and 1 is light, whatever the desktop says.
case ${THEME:-light} in
    dark) set -- "$@" --blink-settings=preferredColorScheme=0 ;;
    light) set -- "$@" --blink-settings=preferredColorScheme=1 ;;
    *) echo "$0: THEME is light or dark" >&2; exit 2 ;;
esac

rm -f "$picture"
"$browser" "$@" "--screenshot=$picture" "file://$report" >"$log" 2>&1 || true
if [ ! -s "$picture" ]; then
    echo "$0: $browser took no picture:" >&2
    tail -n 5 "$log" >&2
    exit 1
fi
echo "$picture"
