"""Celsius to Fahrenheit: a model that has nothing to load may be one function."""


def predict(df):
    return df.assign(fahrenheit=df["celsius"] * 9 / 5 + 32)
