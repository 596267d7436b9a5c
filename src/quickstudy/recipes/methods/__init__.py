"""The methods that recipes are composed of, one configuration each."""
