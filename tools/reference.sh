#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Makes the HTML reference: the docstrings of the headers, the chapters of docs/ beside them, and a search.
#   tools/reference.sh [FOLDER]    default build/reference; the first page is FOLDER/html/index.html
# Needs Doxygen 1.9 (Debian: doxygen). Fails where a public name has no docstring, Doxygen cannot read one, or a link leads
# nowhere.
set -euo pipefail
here=$PWD
cd "$(dirname "$0")/.."

if ! command -v doxygen >/dev/null; then
  echo "reference: doxygen is not installed (tools/setup.sh doxygen)" >&2
  exit 77
fi
folder=${1:-build/reference}
[[ $# -eq 0 || $folder == /* ]] || folder=$here/$folder
mkdir -p "$folder"
rm -rf "$folder/html"
version=$(sed -n 's/^project(ssm VERSION \([0-9.]*\).*/\1/p' CMakeLists.txt)
# What an entity is stands first, not below the list of its members.
doxygen -l "$folder/layout.xml"
sed -i -e '/<detaileddescription/d' \
  -e 's|^\( *\)<briefdescription.*|\1<briefdescription visible="no"/>\n\1<detaileddescription title=""/>|' "$folder/layout.xml"
{
  cat docs/reference/Doxyfile
  echo "LAYOUT_FILE = \"$folder/layout.xml\""
  echo "PROJECT_NUMBER = $version"
  echo "OUTPUT_DIRECTORY = \"$folder\""
  echo "WARN_LOGFILE = \"$folder/warnings.txt\""
} >"$folder/Doxyfile"
doxygen "$folder/Doxyfile"
tools/reference_filter.py --mend "$folder/html"
tools/reference_filter.py --linked-files | while read -r file; do
  mkdir -p "$folder/html/files/$(dirname "$file")"
  cp "$file" "$folder/html/files/$file"
done
status=0
tools/reference_warnings.py "$folder/warnings.txt" || status=1
tools/check_links.py "$folder/html" || status=1
echo "reference: $folder/html/index.html"
exit $status
