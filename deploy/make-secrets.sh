#!/bin/sh
# Makes the secrets of compose.yaml, once: what is there stays. The folder is closed to others; the files in it are not,
# because a container sees them with their owner and mode, and its user is not the one who ran this.
set -eu
umask 077
cd "$(dirname "$0")"
mkdir -p secrets
chmod 0700 secrets
random() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }
write() { # NAME VALUE: beside it and renamed, so that an interruption leaves no half secret
    printf '%s\n' "$2" >"secrets/.$1"
    chmod 0444 "secrets/.$1"
    mv "secrets/.$1" "secrets/$1"
}
[ -s secrets/token ] || write token "$(random)"
[ -s secrets/database_password ] || write database_password "$(random)"
[ -s secrets/corrections_url ] ||
    write corrections_url "postgresql://tailorbird:$(cat secrets/database_password)@postgres:5432/tailorbird"
echo "secrets/ holds token, database_password, corrections_url; people and programs that may use the service need the token"
