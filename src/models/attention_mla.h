// DeepSeek's multi-head latent attention in its absorbed form.
#pragma once

#include <memory>

#include "models/attention.h"

namespace wideep::models {

std::unique_ptr<Attention> make_mla_attention(const AttentionOptions& options, WeightStore& store);

}  // namespace wideep::models
