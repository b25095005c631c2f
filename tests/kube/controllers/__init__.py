"""The controllers: each looks at the whole world and moves it one step, so that a test can walk with them."""
