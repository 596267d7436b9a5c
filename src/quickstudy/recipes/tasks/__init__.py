"""The families of tasks that recipes are composed of, one configuration each."""
