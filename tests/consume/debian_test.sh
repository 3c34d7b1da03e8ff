#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The package for Debian has files where Debian wants them and none that libssm-dev, an unrelated library, has.
#   debian_test.sh BUILD_FOLDER FOLDER      exits with 77 where dpkg-deb is not installed
set -eu
command -v dpkg-deb >/dev/null || { echo "skipped: dpkg-deb is not installed"; exit 77; }
rm -rf "$2"
mkdir -p "$2"
cpack --config "$1/CPackConfig.cmake" -G DEB -B "$2" >"$2/cpack.log" || { cat "$2/cpack.log"; exit 1; }
package=$(find "$2" -maxdepth 1 -name 'libssm-cpp-dev_*_all.deb')
[ -n "$package" ] || { echo "no libssm-cpp-dev_VERSION_all.deb in $2"; exit 1; }
dpkg-deb --contents "$package" | awk '$1 !~ /^d/ {print $6}' | sort >"$2/files"
for wanted in ./usr/include/ssm/ssm.hpp ./usr/share/cmake/ssm/ssmConfig.cmake ./usr/share/pkgconfig/ssm-cpp.pc \
  ./usr/share/doc/libssm-cpp-dev/copyright; do
  grep -qx "$wanted" "$2/files" || { echo "$wanted is not in the package"; exit 1; }
done
if grep -Ev '^\./usr/(include/ssm/.*\.hpp|share/(cmake/ssm|pkgconfig)/[^ ]*|share/doc/libssm-cpp-dev/copyright)$' "$2/files"; then
  echo "these files are elsewhere"
  exit 1
fi
if grep -E '/(ssm\.pc|libssm\.(so|a))$' "$2/files"; then
  echo "these files are libssm-dev's"
  exit 1
fi
