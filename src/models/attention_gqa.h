// Multi-head and grouped-query attention: Qwen3 and Llama 4.
#pragma once

#include <memory>

#include "models/attention.h"

namespace wideep::models {

std::unique_ptr<Attention> make_gqa_attention(const AttentionOptions& options, WeightStore& store);

}  // namespace wideep::models
