"""`python -m remix_study`: where the console script is not on the path, as in a Ray job"""

from remix_study.cli.main import main

main()
