// Does a checkpoint hold the model that its config.json describes?
#pragma once

#include "base/status.h"
#include "config/model_config.h"
#include "models/checkpoint.h"

namespace wideep::models {

// Compares every tensor with tensor_list: names, shapes, dtypes, scales of FP8 weights. What is
// missing, of another shape, of another dtype, or too much is one error, a line each, at most 20
// lines of a kind and then how many more. Experts that fail alike share a line ("experts.{3..17}"),
// and what is missing comes with the nearest name of its shape among what is too much. Reads no
// weights.
Status verify(const Checkpoint& checkpoint, const ModelConfig& model);

}  // namespace wideep::models
