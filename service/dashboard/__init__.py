"""The dashboard: pages made of the API's own answers, so that whatever they show is in the API, too."""
