# The tests under a real systemd, as init of a root directory that may be spoiled, as root.
# What systemd would change for the whole machine is read-only, or private.

apt-get install --quiet --quiet --yes --no-install-recommends \
    "$PWD"/python3-certbot-postfix_*.deb > /dev/null

mount -t sysfs -o ro sysfs /sys
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
umount --lazy /dev
mount -t tmpfs tmpfs /dev
mkdir /dev/pts /dev/shm
for device in null:3 zero:5 full:7 random:8 urandom:9; do
    mknod -m 666 "/dev/${device%:*}" c 1 "${device#*:}"
done
# PrivateDevices=, which Debian 13's postfix.service has, takes these over.
mknod -m 666 /dev/tty c 5 0
mount -t devpts -o newinstance,ptmxmode=666 devpts /dev/pts
ln -s pts/ptmx /dev/ptmx
ln -s /proc/self/fd /dev/fd
mount -t tmpfs tmpfs /run

cat > /etc/systemd/system/tests.service <<'END'
[Unit]
After=network.target
[Service]
Type=oneshot
Environment=UNDER_SYSTEMD=yes PYTHONDONTWRITEBYTECODE=1
WorkingDirectory=/srv/package
StandardOutput=append:/srv/exchange/log
StandardError=inherit
ExecStart=python3 -m pytest -p no:cacheprovider tests/test_systemd.py
ExecStartPost=touch /srv/exchange/passed
ExecStopPost=sh -c '[ -e /srv/exchange/passed ] || journalctl --lines 100'
ExecStopPost=systemctl poweroff --force --force
TimeoutStartSec=10min
[Install]
WantedBy=multi-user.target
END
systemctl --quiet enable tests.service
rm /usr/sbin/policy-rc.d

# Its own part of the machine's control groups: of version 2, which newer systemds demand
# and older ones take.  There it needs no controller: version 1 may have them all.
cat > /srv/init <<'END'
mount -t cgroup2 cgroup2 /sys/fs/cgroup
if [ "$1" = outside ]; then
    mkdir -p /sys/fs/cgroup/certbot-postfix-tests
    echo $$ > /sys/fs/cgroup/certbot-postfix-tests/cgroup.procs
    umount /sys/fs/cgroup
    exec unshare --cgroup sh -eu /srv/init inside
fi
exec env -i container=lxc /lib/systemd/systemd
END
exec sh -eu /srv/init outside
