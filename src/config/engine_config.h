// The engine's arguments: TensorRT-LLM's keys, from one YAML file and the command line's overrides.
//
// load_engine_config reads, merges, completes and judges (config/check.h), with the model where it
// is known, and reports every violation at once, a line each: "file:line: key: value: rule". Keys,
// types, ranges and defaults: docs/configuration.md.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "config/balancer_config.h"
#include "config/schema.h"

namespace wideep {

struct ModelConfig;

// Sizes of the ways to split a model over ranks; config/mapping.h derives ranks and groups.
struct ParallelConfig {
  int tensor_parallel_size = 1;    // ranks that share a layer; with attention DP, also the DP size
  int pipeline_parallel_size = 1;  // stages of layers
  int context_parallel_size = 1;   // ranks that share a prompt's tokens
  // Slices of an expert; null: from the other two sizes.
  std::optional<int> moe_tensor_parallel_size = std::nullopt;
  // Ranks over which experts are spread; null: from the other two sizes.
  std::optional<int> moe_expert_parallel_size = std::nullopt;
  std::optional<int> gpus_per_node = std::nullopt;  // null: as many as the node has
  bool enable_attention_dp = false;                 // each rank its own requests in attention
  bool enable_lm_head_tp_in_adp = false;  // LM head by columns over the node, with attention DP
  std::vector<int> pp_partition = {};     // layers of each stage; empty: even, first ones more
};

// Grouped GEMM and communication of the MoE layers.
enum class MoeBackend {
  kCutlass,  // all ranks see all tokens: all-gather and reduce-scatter
  kWideEp,   // all-to-all to slots; experts may have replicas
};

struct MoeConfig {
  MoeBackend backend = MoeBackend::kCutlass;  // not given: kWideEp where there is a balancer
  // Tokens that one call of the MoE layer takes, summed over all attention-DP ranks; more are cut
  // into chunks. null: never cut.
  std::optional<int> max_num_tokens;
  std::optional<BalancerConfig> load_balancer;  // null: experts stay where they are, once each
  std::string load_balancer_path;               // its file, absolute; "" for an inline map
};

struct AttentionDpConfig {
  bool enable_balance = false;   // hold new requests so that DP ranks start prefills together
  int timeout_iters = 50;        // iterations that a rank waits for the others' prefills
  int batching_wait_iters = 10;  // iterations that it waits to fill a batch of prefills
};

enum class CpType {
  kAllGather,  // every rank gathers the prompt's keys and values
  kRing,       // keys and values go around; partial results merge by log-sum-exp
};

struct CpConfig {
  CpType cp_type = CpType::kAllGather;
};

// Decode steps are captured once for each of these batch sizes and replayed.
struct CudaGraphConfig {
  std::vector<int> batch_sizes;  // ascending, unique; filled by load_engine_config
  int max_batch_size = 0;        // largest of batch_sizes; filled by load_engine_config
  bool enable_padding = false;   // smaller batches run in the next larger graph
};

enum class KvCacheType {
  kAuto,  // the model's type
  kBf16,
  kFp8,
};

struct KvCacheConfig {
  double free_gpu_memory_fraction = 0.9;  // of the memory left after the weights
  std::optional<int> max_tokens;          // at most this many; the smaller limit holds
  int tokens_per_block = 32;              // power of two
  KvCacheType dtype = KvCacheType::kAuto;
  bool enable_block_reuse = true;    // requests share the blocks of a common prefix
  bool enable_partial_reuse = true;  // and copy the matching part of a block
};

// Draft tokens by the model's own MTP layers, the only kind there is.
struct SpeculativeConfig {
  int num_nextn_predict_layers = 1;  // draft tokens a step
};

enum class CacheTransceiverBackend { kDefault, kUcx, kNixl, kMooncake, kMpi };

// Moves KV caches from context to generation servers.
struct CacheTransceiverConfig {
  std::optional<CacheTransceiverBackend> backend;  // null: this server is not disaggregated
  std::optional<int> max_tokens_in_buffer;         // at least the longest prompt; null: max_seq_len
  std::optional<int> kv_transfer_timeout_ms;       // null: wait for ever
};

enum class LoadFormat {
  kAuto,   // the checkpoint's weights
  kDummy,  // random weights, for benchmarks
};

struct EngineConfig {
  ParallelConfig parallel;
  MoeConfig moe;
  AttentionDpConfig attention_dp;
  std::optional<CpConfig> cp;  // null: there is no context parallelism
  std::optional<CudaGraphConfig> cuda_graph = CudaGraphConfig();  // null: every step runs eagerly
  KvCacheConfig kv_cache;
  int max_batch_size = 2048;               // requests of a rank in one iteration
  int max_num_tokens = 8192;               // tokens of a rank in one iteration
  std::optional<int> max_seq_len;          // prompt and answer; null: the model's
  int stream_interval = 1;                 // tokens between two messages to a client
  bool print_iter_log = false;             // one line an iteration
  bool disable_overlap_scheduler = false;  // wait for each step before planning the next
  bool enable_chunked_prefill = false;     // prompts may be cut over iterations
  LoadFormat load_format = LoadFormat::kAuto;
  std::optional<SpeculativeConfig> speculative;  // null: one token a step
  std::optional<CacheTransceiverConfig> cache_transceiver;

  Origins origins;  // where each value came from; paths without one have their default
};

// What the command line sets, over the file. Each is the value of the key of the same meaning and
// is held to the same range.
struct EngineOverrides {
  std::optional<int> tp = std::nullopt;
  std::optional<int> pp = std::nullopt;
  std::optional<int> cp = std::nullopt;
  std::optional<int> moe_tp = std::nullopt;
  std::optional<int> ep = std::nullopt;
  std::optional<int> cluster = std::nullopt;
  std::optional<int> gpus_per_node = std::nullopt;
  std::optional<int> max_batch_size = std::nullopt;
  std::optional<int> max_num_tokens = std::nullopt;
  std::optional<int> max_seq_len = std::nullopt;
  std::optional<double> kv_cache_free_gpu_mem_fraction = std::nullopt;
  std::optional<bool> enable_attention_dp = std::nullopt;
  std::optional<bool> enable_chunked_prefill = std::nullopt;
  std::optional<LoadFormat> load_format = std::nullopt;
};

// Reads the file ("" for none: defaults and overrides only). A relative load_balancer path is
// looked up beside the file that names it, then in the working directory.
Result<EngineConfig> load_engine_config(const std::string& path,
                                        const EngineOverrides& overrides = {},
                                        const ModelConfig* model = nullptr);
// The same from memory; `name` stands for the file in messages and gives the folder.
Result<EngineConfig> parse_engine_config(std::string_view yaml, const std::string& name,
                                         const EngineOverrides& overrides = {},
                                         const ModelConfig* model = nullptr);

// The configuration as YAML that load_engine_config reads back as itself, with every key's origin
// as comment.
std::string engine_config_yaml(const EngineConfig& config);

// Every key that is read, with the load balancer's ("load_balancer." + key) before the legacy ones.
std::vector<KeyDoc> config_keys();
// The same as the table of docs/configuration.md.
std::string config_keys_markdown();

// Batch sizes of the CUDA graphs, ascending and unique, the largest always max_batch_size >= 1.
// With padding: 1, 2, 4, multiples of 8 to 128, of 64 to 2048, then powers of two; without: 1 to
// 32, 64, 128, then powers of two. Source: TensorRT-LLM's rules, the padded one that of 2026, whose
// finer steps above 128 pad less.
std::vector<int> cuda_graph_batch_sizes(int max_batch_size, bool enable_padding);

// The configuration's spelling of an enum's value.
std::string_view to_string(MoeBackend backend);

}  // namespace wideep
