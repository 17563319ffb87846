// For tests of checkpoints: small models, and checkpoints with random bits that a test may damage
// before they are written.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/file_testing.h"
#include "base/float_formats.h"
#include "base/json.h"
#include "base/random.h"
#include "base/safetensors.h"
#include "config/model_config.h"
#include "config/model_config_testing.h"
#include "models/checkpoint.h"
#include "models/tensor_list.h"

namespace wideep::models {

inline ModelConfig config_of(const Json& json) {
  Result<ModelConfig> model = parse_model_config(json.dump(), "config.json");
  CHECK(model.is_ok());
  return std::move(model).value();
}

// The published models' configurations with small sizes.
inline ModelConfig tiny_deepseek(const Json& changes = Json::object()) {
  Json json = deepseek_r1_json();
  json.update({{"vocab_size", 40},
               {"hidden_size", 48},
               {"intermediate_size", 56},
               {"moe_intermediate_size", 24},
               {"num_hidden_layers", 3},
               {"first_k_dense_replace", 1},
               {"num_attention_heads", 2},
               {"n_routed_experts", 16},
               {"n_group", 4},
               {"topk_group", 2},
               {"num_experts_per_tok", 4},
               {"kv_lora_rank", 32},
               {"q_lora_rank", 20},
               {"qk_rope_head_dim", 8},
               {"v_head_dim", 16},
               {"qk_nope_head_dim", 16}});
  json["quantization_config"]["weight_block_size"] = {16, 16};
  json.update(changes);
  return config_of(json);
}

inline ModelConfig tiny_qwen3(const Json& changes = Json::object()) {
  Json json = qwen3_235b_json();
  json.update({{"vocab_size", 40},
               {"hidden_size", 48},
               {"intermediate_size", 56},
               {"moe_intermediate_size", 24},
               {"num_hidden_layers", 3},
               {"mlp_only_layers", {1}},
               {"num_attention_heads", 4},
               {"num_key_value_heads", 2},
               {"head_dim", 8},
               {"num_experts", 6},
               {"num_experts_per_tok", 2}});
  json.update(changes);
  return config_of(json);
}

inline ModelConfig tiny_llama4() {
  Json json = llama4_maverick_json();
  json["text_config"].update({{"vocab_size", 40},
                              {"hidden_size", 48},
                              {"intermediate_size", 24},
                              {"intermediate_size_mlp", 56},
                              {"num_hidden_layers", 4},
                              {"num_attention_heads", 4},
                              {"num_key_value_heads", 2},
                              {"head_dim", 8},
                              {"num_local_experts", 6}});
  return config_of(json);
}

// Tensors by name, written as shards with an index.
class TestCheckpoint {
 public:
  struct Tensor {
    DType dtype = DType::kBF16;
    std::vector<int64_t> shape;
    std::vector<std::byte> bytes;
  };

  TestCheckpoint() = default;
  // All tensors of a model; linear weights in FP8 with F32 scales where the model has blocks.
  explicit TestCheckpoint(const ModelConfig& model) {
    for (const TensorSpec& spec : tensor_list(model)) {
      const bool is_fp8 = spec.may_be_fp8 && model.fp8_block;
      add(spec.name, is_fp8 ? DType::kF8E4M3 : DType::kBF16, spec.shape);
      if (is_fp8) add_scales(spec.name, *model.fp8_block, DType::kF32);
    }
  }

  // With random bits, but of a scale those of a float in [0.5, 1).
  void add(const std::string& name, DType dtype, std::vector<int64_t> shape) {
    Tensor tensor{dtype, std::move(shape), {}};
    tensor.bytes.resize(static_cast<size_t>(*tensor_bytes(dtype, tensor.shape)));
    for (std::byte& byte : tensor.bytes) byte = static_cast<std::byte>(random_.next() >> 56);
    tensors[name] = std::move(tensor);
  }

  void add_scales(const std::string& weight, Fp8Block block, DType dtype) {
    const auto& shape = tensors.at(weight).shape;
    const std::string name = weight + std::string(kScaleSuffix);
    add(name, dtype,
        {(shape[0] + block.rows - 1) / block.rows, (shape[1] + block.columns - 1) / block.columns});
    std::vector<std::byte>& bytes = tensors.at(name).bytes;
    const auto size = static_cast<size_t>(dtype_size(dtype));
    for (size_t at = 0; at < bytes.size(); at += size) {
      const auto bits =
          std::bit_cast<uint32_t>(0.5F + 0.5F * static_cast<float>(random_.uniform()));
      // The upper bytes of a float are a bf16.
      std::memcpy(bytes.data() + at, reinterpret_cast<const char*>(&bits) + 4 - size, size);
    }
  }

  void rename(const std::string& from, const std::string& to) {
    auto node = tensors.extract(from);
    CHECK(!node.empty());
    node.key() = to;
    tensors.insert(std::move(node));
  }

  // Dealt out to `num_shards` files and an index; with one shard, model.safetensors.
  void write(const TemporaryFolder& folder, int num_shards = 1) const {
    Json index = {{"weight_map", Json::object()}};
    for (int shard = 0; shard < num_shards; ++shard) {
      const std::string file = num_shards == 1 ? "model.safetensors" : shard_name(shard);
      std::vector<TensorToWrite> part;
      int at = 0;
      for (const auto& [name, tensor] : tensors) {
        if (at++ % num_shards != shard) continue;
        part.push_back({name, tensor.dtype, tensor.shape, tensor.bytes});
        index["weight_map"][name] = file;
      }
      CHECK(write_safetensors(folder / file, std::move(part)).is_ok());
    }
    if (num_shards > 1) folder.write("model.safetensors.index.json", index.dump());
  }

  static std::string shard_name(int shard) {
    return "shard-" + std::to_string(shard) + ".safetensors";
  }

  std::map<std::string, Tensor> tensors;

 private:
  Random random_{1};
};

// The whole of a tensor's matrix, or of one expert's.
inline MatrixRequest whole(const std::string& name, std::vector<int64_t> shape, int expert = -1,
                           bool transposed = false) {
  if (transposed) std::swap(shape[shape.size() - 2], shape[shape.size() - 1]);
  return {name, expert, transposed, 0, shape[shape.size() - 2], 0, shape.back()};
}

// A random part of a whole, often empty or of full width.
inline MatrixRequest random_part(Random& random, MatrixRequest request) {
  const auto cut = [&](int64_t& begin, int64_t& end) {
    if (random.below(4) == 0) return;
    const auto size = static_cast<uint64_t>(end);
    begin = static_cast<int64_t>(random.below(size + 1));
    end = begin + static_cast<int64_t>(random.below(size - static_cast<uint64_t>(begin) + 1));
  };
  cut(request.row_begin, request.row_end);
  cut(request.column_begin, request.column_end);
  return request;
}

// Reads the request from anything that has read(request, span); the test fails where that fails.
template <typename T, typename Source>
std::vector<T> read_all(Source& source, const MatrixRequest& request) {
  std::vector<T> out(static_cast<size_t>(request.num_elements()));
  const Status status = source.read(request, std::span<T>(out));
  EXPECT_TRUE(status.is_ok()) << status.message();
  return out;
}

// Bits, so that NaN equals itself.
template <typename T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

// The part's elements picked one by one out of the whole's.
template <typename T>
std::vector<T> part_of(const std::vector<T>& all, const MatrixRequest& whole,
                       const MatrixRequest& part) {
  std::vector<T> out;
  for (int64_t row = part.row_begin; row < part.row_end; ++row) {
    for (int64_t column = part.column_begin; column < part.column_end; ++column) {
      out.push_back(all[static_cast<size_t>(row * whole.columns() + column)]);
    }
  }
  return out;
}

}  // namespace wideep::models
