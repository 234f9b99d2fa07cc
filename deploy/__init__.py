"""What is done with a trained model: predictions, exports, model cards."""
