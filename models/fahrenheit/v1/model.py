"""Celsius to Fahrenheit: a model with nothing to load can be a single function."""


def predict(df):
    return df.assign(fahrenheit=df["celsius"] * 9 / 5 + 32)
