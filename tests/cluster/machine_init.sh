#!/bin/bash
# Process 1 of a fake machine, inside namespaces of its own. machines.py starts it, and says what a machine is.
#   machine_init.sh NAME STATE CHECKOUT VENV PYTHON
# Says "ready" as soon as its ssh server listens.
set -euo pipefail
name=$1 state=$2 checkout=$3 venv=$4 python=$5
own=$state/$name

mount --make-rprivate /
mkdir -p "$own"/{root,tmp,changes,work}
find "$own/tmp" -mindepth 1 -delete  # a machine that starts has an empty /tmp
install -d -m 700 "$own"/root/{.ssh,.config,.config/pip}
install -m 600 "$state/keys/id.pub" "$own/root/.ssh/authorized_keys"
install -m 600 "$state/keys/id" "$own/root/.ssh/ray_cluster_ed25519"
install -m 600 "$state/keys/host" "$own/root/.ssh/host"
[ -e "$own/root/.bashrc" ] || cp /etc/skel/.bashrc "$own/root/.bashrc"
# There is no network to fetch from: what a machine installs, it builds with what the environment has.
# (`no-build-isolation = false` is how pip's configuration spells --no-build-isolation.)
printf '[global]\nno-index = true\nno-build-isolation = false\ndisable-pip-version-check = true\n' \
    >"$own/root/.config/pip/pip.conf"

# Everything is mounted under /mnt first, because the state may lie under what is hidden next.
mount -t tmpfs -o size=1m,mode=755 mnt /mnt
mkdir /mnt/own /mnt/venv /mnt/python
if [ "$name" != laptop ]; then
    mkdir /mnt/shared
    mount --bind "$state/shared" /mnt/shared
fi
mount --bind "$own" /mnt/own
mount -t overlay overlay -o "lowerdir=$venv,upperdir=$own/changes,workdir=$own/work" /mnt/venv
mount --bind "$python" /mnt/python

# The host's disk is not a machine's to write, and its checkout not a machine's to find: it has what it was given.
mount -o remount,bind,ro /
mount -t tmpfs -o size=1m,mode=755 checkout "$checkout"
mount --bind /mnt/own/root /root
mount --bind /mnt/own/tmp /tmp
chmod 1777 /tmp
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs -o size=8g,mode=1777 shm /dev/shm
put() { [ -d "$2" ] || mkdir -p "$2"; mount --bind "/mnt/$1" "$2"; }
put python "$python"
put venv "$venv"                     # where its scripts' first lines say it is
put venv /root/remix-study-env       # where clusters/local-onprem.yaml looks for it
umount -l /mnt/venv /mnt/python /mnt/own
rmdir /mnt/venv /mnt/python /mnt/own

hostname "$name"
ip link set lo up
mkdir /run/sshd
# As where nobody keeps names: a machine finds its own address by its name no better than by the internet.
printf '127.0.0.1 localhost %s\n' "$name" >/run/hosts
mount --bind /run/hosts /etc/hosts
export HOME=/root USER=root
cd /root
/usr/sbin/sshd -f /dev/null -E /tmp/sshd.log -h /root/.ssh/host -o PidFile=/run/sshd.pid -o UsePAM=no \
    -o PermitRootLogin=prohibit-password -o PasswordAuthentication=no -o MaxStartups=100 \
    -o Subsystem='sftp internal-sftp'
# sshd leaves its caller before it listens, and writes this file after: there is nothing else to wait for.
until [ -s /run/sshd.pid ]; do sleep 0.02; done
echo ready
exec >/dev/null 2>&1
# Process 1 must reap what others leave behind: bash does, while it waits.
while :; do sleep 3600 & wait $!; done
