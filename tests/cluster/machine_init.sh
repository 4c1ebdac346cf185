#!/bin/bash
# Process 1 of a fake machine, inside its own namespaces; started by machines.py, which describes the machines.
#   machine_init.sh NAME STATE CHECKOUT VENV PYTHON
# Prints "ready" when the ssh server listens.
set -euo pipefail
name=$1 state=$2 checkout=$3 venv=$4 python=$5
own=$state/$name

mount --make-rprivate /
mkdir -p "$own"/{root,tmp,changes,work}
find "$own/tmp" -mindepth 1 -delete  # /tmp is empty after a start
install -d -m 700 "$own"/root/{.ssh,.config,.config/pip}
install -m 600 "$state/keys/id.pub" "$own/root/.ssh/authorized_keys"
install -m 600 "$state/keys/id" "$own/root/.ssh/ray_cluster_ed25519"
install -m 600 "$state/keys/host" "$own/root/.ssh/host"
[ -e "$own/root/.bashrc" ] || cp /etc/skel/.bashrc "$own/root/.bashrc"
# There is no package index: pip builds with the packages of the environment.
# (In pip's configuration, `no-build-isolation = false` means --no-build-isolation.)
printf '[global]\nno-index = true\nno-build-isolation = false\ndisable-pip-version-check = true\n' \
    >"$own/root/.config/pip/pip.conf"

# Mount everything under /mnt first, because STATE may be below a folder that is hidden next.
mount -t tmpfs -o size=1m,mode=755 mnt /mnt
mkdir /mnt/own /mnt/venv /mnt/python
if [ "$name" != laptop ]; then
    mkdir /mnt/shared
    mount --bind "$state/shared" /mnt/shared
fi
mount --bind "$own" /mnt/own
mount -t overlay overlay -o "lowerdir=$venv,upperdir=$own/changes,workdir=$own/work" /mnt/venv
mount --bind "$python" /mnt/python

# The host's disk is read-only and its checkout is hidden, so that a machine only has the code that was copied to it.
mount -o remount,bind,ro /
mount -t tmpfs -o size=1m,mode=755 checkout "$checkout"
mount --bind /mnt/own/root /root
mount --bind /mnt/own/tmp /tmp
chmod 1777 /tmp
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs -o size=8g,mode=1777 shm /dev/shm
put() { [ -d "$2" ] || mkdir -p "$2"; mount --bind "/mnt/$1" "$2"; }
put python "$python"
put venv "$venv"                     # the path in the first lines of its scripts
put venv /root/remix-study-env       # the path in clusters/local-onprem.yaml
umount -l /mnt/venv /mnt/python /mnt/own
rmdir /mnt/venv /mnt/python /mnt/own

hostname "$name"
ip link set lo up
mkdir /run/sshd
# As on a network without DNS: the machine's own name resolves to 127.0.0.1.
printf '127.0.0.1 localhost %s\n' "$name" >/run/hosts
mount --bind /run/hosts /etc/hosts
export HOME=/root USER=root
cd /root
/usr/sbin/sshd -f /dev/null -E /tmp/sshd.log -h /root/.ssh/host -o PidFile=/run/sshd.pid -o UsePAM=no \
    -o PermitRootLogin=prohibit-password -o PasswordAuthentication=no -o MaxStartups=100 \
    -o Subsystem='sftp internal-sftp'
# sshd forks before it listens, and writes this file afterwards: there is no other signal.
until [ -s /run/sshd.pid ]; do sleep 0.02; done
echo ready
exec >/dev/null 2>&1
# Process 1 must reap orphaned processes; bash does so while it waits.
while :; do sleep 3600 & wait $!; done
