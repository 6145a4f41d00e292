"""Does one activation function do better than another, on given data and a given network?"""

__version__ = "0.2.0.dev0"
