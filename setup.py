"""Adds the commit to the version of a wheel, as in 0.1.0+g265a096, if the variable GENRETAG_COMMIT names it."""

import os

from setuptools import setup

commit = os.environ.get("GENRETAG_COMMIT", "")
setup(options={"egg_info": {"tag_build": f"+g{commit[:7]}"}} if commit else {})
