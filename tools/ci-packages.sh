#!/usr/bin/env bash
# Install the Debian packages that the checks need beyond Python and a C compiler, where they are
# missing. Without root it only says which.
set -euo pipefail

missing=()
command -v "${CHROMIUM:-chromium}" >/dev/null || missing+=(chromium) # make e2e
command -v docker-compose >/dev/null || missing+=(docker-compose) # checks docker-compose.yml

if ((${#missing[@]} == 0)); then
	exit 0
fi
if ((EUID != 0)); then
	echo "Missing packages; install them as root: apt-get install ${missing[*]}" >&2
	exit 1
fi
apt-get update --quiet=2
DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --yes --no-install-recommends "${missing[@]}" >/dev/null
