"""``python -m ojs_client.ctl`` is ``ojsctl``."""

from ojs_client.ctl import main

if __name__ == "__main__":
    main()
