#include "config/engine_schema.h"

#include <filesystem>
#include <iterator>

#include "base/file.h"
#include "config/balancer_schema.h"
#include "config/limits.h"
#include "config/schema_keys.h"

namespace wideep {
namespace {

using Engine = EngineConfig;
using EngineKey = Key<EngineConfig>;
using EngineKeys = std::vector<EngineKey>;

constexpr IntRange kRanks{1, kMaxRanks};

const Spellings<MoeBackend>& moe_backends() {
  static const Spellings<MoeBackend> names{{"CUTLASS", MoeBackend::kCutlass},
                                           {"WideEP", MoeBackend::kWideEp}};
  return names;
}

// null and -1 leave the choice to the mapping.
template <typename Access>
EngineKey auto_int_key(const std::string& path, Access access, const std::string& doc) {
  EngineKey key = int_key<Engine>(path, access, kRanks, doc);
  key.type += " (or -1)";
  key.read = [read = key.read, access](const ReadContext& context, const std::string& written,
                                       const YamlNode& node, Engine& out) {
    if (scalar_int(node) == -1) return access(out).reset();
    read(context, written, node, out);
  };
  return key;
}

// Beside the file that names it, else in the working directory; "" where it is in neither.
std::string find_balancer_file(const std::string& path, const std::string& config_file) {
  const std::filesystem::path given(path);
  const std::filesystem::path beside = std::filesystem::path(config_file).parent_path() / given;
  std::error_code error;
  for (const std::filesystem::path& candidate : {beside, given}) {
    if (!path_exists(candidate.string())) continue;
    const std::filesystem::path absolute = std::filesystem::absolute(candidate, error);
    return error ? candidate.string() : absolute.lexically_normal().string();
  }
  return "";
}

void add_balancer_origins(const Origins& from, Origins& to) {
  for (const auto& [path, origin] : from) {
    const std::string full = "moe_config.load_balancer." + path;
    to.insert_or_assign(full, Origin{origin.place, full});
  }
}

void read_load_balancer(const ReadContext& context, const std::string& written,
                        const YamlNode& node, Engine& out) {
  out.moe.load_balancer.reset();
  out.moe.load_balancer_path.clear();
  if (node.is_null()) return;
  Origins origins;
  if (node.is_map()) {
    out.moe.load_balancer =
        read_balancer_map({context.file, context.violations, origins, context.has_lines}, node);
    return add_balancer_origins(origins, context.origins);
  }
  const std::optional<std::string> given = scalar_string(node);
  if (!given || given->empty()) {
    return context.fail(node, written, "must be a path, a map of the balancer's keys, or null");
  }
  const std::string path = find_balancer_file(*given, context.file);
  if (path.empty()) {
    return context.fail(node, written,
                        "no such file beside the configuration or in the working directory");
  }
  const Result<YamlDocument> document = read_yaml(path);
  if (!document.is_ok()) return context.violations.add(document.status());
  out.moe.load_balancer = read_balancer_map({path, context.violations, origins}, document->root());
  out.moe.load_balancer_path = path;
  add_balancer_origins(origins, context.origins);
}

std::string write_load_balancer(const Engine& config) {
  const auto& balancer = config.moe.load_balancer;
  if (!balancer) return "null";
  if (!config.moe.load_balancer_path.empty()) return yaml_string(config.moe.load_balancer_path);
  std::string text = "\n";
  const auto add_lines = [&](const char* indent, std::string_view lines) {
    for (const std::string_view line : split(lines.substr(0, lines.size() - 1), '\n')) {
      fmt::format_to(std::back_inserter(text), "{}{}\n", indent, line);
    }
  };
  add_lines("    ", balancer_config_yaml(*balancer));
  // The other keys as comments: given, those that cannot act in this configuration are refused.
  add_lines("    # default: ", balancer_defaults_yaml(*balancer));
  return text;
}

EngineKeys parallel_keys() {
  return {
      int_key<Engine>("tensor_parallel_size", FIELD(parallel.tensor_parallel_size), kRanks,
                      "Ranks that share a layer; with attention DP also the number of DP ranks"),
      int_key<Engine>("pipeline_parallel_size", FIELD(parallel.pipeline_parallel_size), kRanks,
                      "Stages of consecutive layers"),
      int_key<Engine>("context_parallel_size", FIELD(parallel.context_parallel_size), kRanks,
                      "Ranks that share the tokens of a prompt"),
      auto_int_key("moe_tensor_parallel_size", FIELD(parallel.moe_tensor_parallel_size),
                   "Slices of each expert; null: tensor_parallel_size / moe_expert_parallel_size"),
      auto_int_key("moe_expert_parallel_size", FIELD(parallel.moe_expert_parallel_size),
                   "Ranks over which experts are spread; null: tensor_parallel_size / "
                   "moe_tensor_parallel_size, and 1 where neither is given"),
      {.path = "moe_cluster_parallel_size",
       .type = "1, null or -1",
       .doc = "Only 1: experts have no second level of ranks here",
       .target = "",
       .read =
           [](const ReadContext& context, const std::string& written, const YamlNode& node,
              Engine&) {
             const std::optional<int64_t> size = scalar_int(node);
             if (!node.is_null() && size != 1 && size != -1) {
               context.fail(node, written, "must be 1: wideep has no expert clusters");
             }
           },
       .write = [](const Engine&) { return std::string("1"); }},
      fixed_key<Engine>("attn_cp_size", "1", "attention is split by context_parallel_size"),
      int_key<Engine>("gpus_per_node", FIELD(parallel.gpus_per_node), kRanks,
                      "GPUs of a node; null: as many as it has"),
      bool_key<Engine>("enable_attention_dp", FIELD(parallel.enable_attention_dp),
                       "Attention data parallelism: each rank has its own requests and KV cache"),
      bool_key<Engine>("enable_lm_head_tp_in_adp", FIELD(parallel.enable_lm_head_tp_in_adp),
                       "With attention DP: split the LM head over the ranks of a node"),
      list_key<Engine>("pp_partition", FIELD(parallel.pp_partition), {1, kMaxLayers},
                       "Layers of each pipeline stage; null: even, the first stages one more"),
  };
}

EngineKeys section_keys() {
  return {
      bool_key<Engine>("attention_dp_config.enable_balance", FIELD(attention_dp.enable_balance),
                       "Hold new requests so that DP ranks prefill together"),
      int_key<Engine>("attention_dp_config.timeout_iters", FIELD(attention_dp.timeout_iters), {0},
                      "Iterations that a rank waits for the others' prefills"),
      int_key<Engine>("attention_dp_config.batching_wait_iters",
                      FIELD(attention_dp.batching_wait_iters), {0},
                      "Iterations that a rank waits to fill a batch of prefills"),
      enum_key<Engine, CpType>(
          "cp_config.cp_type", FIELD(cp->cp_type),
          {{"ALLGATHER", CpType::kAllGather}, {"RING", CpType::kRing}},
          "How context-parallel ranks see each other's keys and values",
          {{"ULYSSES", "STAR", "HELIX"}, "wideep gathers keys and values or passes them around"}),
      enum_key<Engine, MoeBackend>(
          "moe_config.backend", FIELD(moe.backend), moe_backends(),
          "Kind of MoE layer; not given: WideEP where there is a load balancer",
          {{"AUTO", "CUTEDSL", "TRTLLM", "DEEPGEMM", "DENSEGEMM", "MARLIN", "VANILLA", "TRITON",
            "MEGAMOE_DEEPGEMM", "MEGAMOE_CUTEDSL"},
           "this is a backend of TensorRT-LLM; WideEP has all-to-all and the load balancer, and "
           "the "
           "GEMM for the weights' type is chosen by itself"}),
      int_key<Engine>("moe_config.max_num_tokens", FIELD(moe.max_num_tokens), {1},
                      "Tokens that one call of an MoE layer takes, summed over all attention-DP "
                      "ranks; more are cut into chunks; null: never cut"),
      {.path = "moe_config.load_balancer",
       .type = "path, map or null",
       .doc =
           "The load balancer's keys (below), in a file of their own or in place; a relative path "
           "is looked up beside this file, then in the working directory",
       .target = "",
       .read = read_load_balancer,
       .write = write_load_balancer},
      fixed_key<Engine>("moe_config.disable_finalize_fusion", "true",
                        "experts' outputs are always summed in a fixed order, nothing is fused"),
      fixed_key<Engine>("moe_config.use_low_precision_moe_combine", "false",
                        "combine always sums in fp32"),
      list_key<Engine>("cuda_graph_config.batch_sizes", FIELD(cuda_graph->batch_sizes), {1, 65536},
                       "Batch sizes that get a graph; null: generated up to max_batch_size"),
      int_key<Engine>("cuda_graph_config.max_batch_size", FIELD(cuda_graph->max_batch_size),
                      {0, 65536},
                      "Largest batch with a graph; 0: the largest of batch_sizes, else the smaller "
                      "of 128 and the engine's max_batch_size"),
      bool_key<Engine>("cuda_graph_config.enable_padding", FIELD(cuda_graph->enable_padding),
                       "Run a batch without a graph of its size in the next larger one"),
      fraction_key<Engine>("kv_cache_config.free_gpu_memory_fraction",
                           FIELD(kv_cache.free_gpu_memory_fraction),
                           "Part of the memory left after the weights that the KV cache takes"),
      int_key<Engine>(
          "kv_cache_config.max_tokens", FIELD(kv_cache.max_tokens), {1},
          "At most this many tokens in the KV cache of a rank; the smaller limit holds"),
      int_key<Engine>("kv_cache_config.tokens_per_block", FIELD(kv_cache.tokens_per_block),
                      {8, 256}, "Tokens of a block, a power of two"),
      enum_key<Engine, KvCacheType>("kv_cache_config.dtype", FIELD(kv_cache.dtype),
                                    {{"auto", KvCacheType::kAuto},
                                     {"bfloat16", KvCacheType::kBf16},
                                     {"fp8", KvCacheType::kFp8}},
                                    "Type of keys and values; auto: the model's",
                                    {{"nvfp4", "int8"}, "there are no kernels for it"}),
      bool_key<Engine>("kv_cache_config.enable_block_reuse", FIELD(kv_cache.enable_block_reuse),
                       "Requests with a common prefix share its blocks"),
      bool_key<Engine>("kv_cache_config.enable_partial_reuse", FIELD(kv_cache.enable_partial_reuse),
                       "A block that matches in part is copied instead of computed"),
  };
}

EngineKeys run_keys() {
  return {
      int_key<Engine>("max_batch_size", FIELD(max_batch_size), {1, 65536},
                      "Requests of a rank in one iteration"),
      int_key<Engine>("max_num_tokens", FIELD(max_num_tokens), {1, 1 << 20},
                      "Tokens of a rank in one iteration"),
      int_key<Engine>("max_seq_len", FIELD(max_seq_len), {1},
                      "Longest prompt and answer together; null: what the model allows"),
      fixed_key<Engine>("max_beam_width", "1", "there is no beam search"),
      int_key<Engine>("stream_interval", FIELD(stream_interval), {1},
                      "Tokens between two messages of a stream"),
      fixed_key<Engine>("num_postprocess_workers", "0",
                        "tokens are turned into text by threads of the server"),
      bool_key<Engine>("print_iter_log", FIELD(print_iter_log), "One line of log an iteration"),
      bool_key<Engine>("disable_overlap_scheduler", FIELD(disable_overlap_scheduler),
                       "Wait for each step's tokens before the next is planned"),
      bool_key<Engine>("enable_chunked_prefill", FIELD(enable_chunked_prefill),
                       "Prompts may be cut into pieces of max_num_tokens"),
      enum_key<Engine, LoadFormat>("load_format", FIELD(load_format),
                                   {{"auto", LoadFormat::kAuto}, {"dummy", LoadFormat::kDummy}},
                                   "auto: the checkpoint's weights; dummy: random ones"),
      fixed_key<Engine>("backend", "pytorch",
                        "TensorRT-LLM's name for the engine whose keys these are"),
      fixed_key<Engine>("speculative_config.decoding_type", "MTP",
                        "drafts come from the model's own MTP layers"),
      int_key<Engine>("speculative_config.num_nextn_predict_layers",
                      FIELD(speculative->num_nextn_predict_layers), {1, 8}, "Draft tokens a step"),
      enum_key<Engine, CacheTransceiverBackend>(
          "cache_transceiver_config.backend", FIELD(cache_transceiver->backend),
          {{"DEFAULT", CacheTransceiverBackend::kDefault},
           {"UCX", CacheTransceiverBackend::kUcx},
           {"NIXL", CacheTransceiverBackend::kNixl},
           {"MOONCAKE", CacheTransceiverBackend::kMooncake},
           {"MPI", CacheTransceiverBackend::kMpi}},
          "How KV caches move between context and generation servers; null: they do not"),
      int_key<Engine>(
          "cache_transceiver_config.max_tokens_in_buffer",
          FIELD(cache_transceiver->max_tokens_in_buffer), {1},
          "Tokens of a transfer's buffer, at least the longest prompt; null: max_seq_len"),
      int_key<Engine>("cache_transceiver_config.kv_transfer_timeout_ms",
                      FIELD(cache_transceiver->kv_transfer_timeout_ms), {1},
                      "A transfer that takes longer fails its request; null: none does"),
      fixed_key<Engine>("cache_transceiver_config.transceiver_runtime", "CPP", "there is one"),
  };
}

// Keys of before July 2025. `prefix` is "" or the map that they stood in before that.
EngineKeys legacy_keys(const std::string& prefix) {
  EngineKeys keys{
      alias_key<Engine>(prefix + "moe_backend", "moe_config.backend"),
      alias_key<Engine>(prefix + "moe_max_num_tokens", "moe_config.max_num_tokens"),
      alias_key<Engine>(prefix + "moe_load_balancer", "moe_config.load_balancer"),
      alias_key<Engine>(prefix + "use_cuda_graph", "cuda_graph_config"),
      alias_key<Engine>(prefix + "cuda_graph_batch_sizes", "cuda_graph_config.batch_sizes"),
      alias_key<Engine>(prefix + "cuda_graph_max_batch_size", "cuda_graph_config.max_batch_size"),
      alias_key<Engine>(prefix + "cuda_graph_padding_enabled", "cuda_graph_config.enable_padding"),
      alias_key<Engine>(prefix + "kv_cache_dtype", "kv_cache_config.dtype"),
      alias_key<Engine>(prefix + "free_gpu_memory_fraction",
                        "kv_cache_config.free_gpu_memory_fraction"),
      alias_key<Engine>(prefix + "enable_overlap_scheduler", "disable_overlap_scheduler"),
  };
  for (EngineKey& key : keys) {
    if (!key.path.ends_with("use_cuda_graph") && !key.path.ends_with("enable_overlap_scheduler")) {
      continue;
    }
    const bool is_graph = key.target == "cuda_graph_config";
    key.type = "true or false";
    key.doc = is_graph ? "true: {}, false: null" : "with the opposite value";
    key.read = [is_graph](const ReadContext& context, const std::string& written,
                          const YamlNode& node, Engine& out) {
      const std::optional<bool> on = scalar_bool(node);
      if (!on) return context.fail(node, written, "must be true or false");
      if (!is_graph) {
        out.disable_overlap_scheduler = !*on;
      } else if (!*on) {
        out.cuda_graph.reset();
      }
    };
  }
  return keys;
}

EngineKeys moved_keys() {
  EngineKeys keys{alias_key<Engine>("kv_cache_free_gpu_mem_fraction",
                                    "kv_cache_config.free_gpu_memory_fraction"),
                  alias_key<Engine>("cache_transceiver_config.max_num_tokens",
                                    "cache_transceiver_config.max_tokens_in_buffer")};
  for (const char* name : {"print_iter_log", "disable_overlap_scheduler", "load_format"}) {
    keys.push_back(alias_key<Engine>(fmt::format("pytorch_backend_config.{}", name), name));
  }
  return keys;
}

std::vector<RefusedKey> refused_keys() {
  std::vector<RefusedKey> refused{
      {"model", "is not a key of this file: give the model with --model"},
      {"tokenizer", "is read from the model's folder"},
      {"dtype", "the checkpoint's type is used: remove it"},
      {"quant_config", "the checkpoint's quantization is used: remove it"},
      {"trust_remote_code", "no code of a checkpoint is ever run: remove it"},
      {"attn_backend", "attention is chosen by itself: remove it"},
      {"allreduce_strategy", "the all-reduce is chosen by itself: remove it"},
      {"enable_autotuner", "nothing is tuned at start: remove it"},
      {"torch_compile_config", "there is no PyTorch: remove it"},
      {"enable_iter_perf_stats", "statistics are always kept: remove it"},
      {"enable_lora", "LoRA is not supported"},
      {"lora_config", "LoRA is not supported"},
      {"peft_cache_config", "LoRA is not supported"},
      {"guided_decoding_backend", "guided decoding is not supported"},
      {"sparse_attention_config", "sparse attention is not supported"},
      {"scheduler_config", "there is one scheduling policy: remove it"},
      {"cp_config.tokens_per_block", "only STAR attention has it: remove it"},
      {"cp_config.use_nccl_for_alltoall", "only HELIX has it: remove it"},
      {"cp_config.fifo_version", "only HELIX has it: remove it"},
      {"kv_cache_config.host_cache_size", "the KV cache is not moved to the host: remove it"},
      {"kv_cache_config.max_attention_window", "the model's own windows are used: remove it"},
      {"kv_cache_config.event_buffer_max_size", "there are no KV cache events: remove it"},
  };
  for (const Key<BalancerConfig>& key : balancer_schema().keys) {
    refused.push_back(
        {key.path, "is a key of the load balancer: give it in moe_config.load_balancer"});
  }
  for (const char* server : {"hostname", "port", "context_servers", "generation_servers"}) {
    refused.push_back({server, "is a key of the disaggregated server's file, not of an engine's"});
  }
  return refused;
}

std::vector<Section<Engine>> engine_sections() {
  Section<Engine> attention_dp = section<Engine>("attention_dp_config");
  attention_dp.clear = [](Engine& config) { config.attention_dp = {}; };  // null: the defaults
  return {attention_dp,
          optional_section<Engine>("cp_config", FIELD(cp)),
          section<Engine>("moe_config"),
          optional_section<Engine>("cuda_graph_config", FIELD(cuda_graph)),
          section<Engine>("kv_cache_config"),
          optional_section<Engine>("speculative_config", FIELD(speculative)),
          optional_section<Engine>("cache_transceiver_config", FIELD(cache_transceiver)),
          section<Engine>("pytorch_backend_config")};
}

Schema<Engine> make_schema() {
  Schema<Engine> schema;
  schema.sections = engine_sections();
  for (EngineKeys keys : {parallel_keys(), section_keys(), run_keys(), moved_keys(),
                          legacy_keys(""), legacy_keys("pytorch_backend_config.")}) {
    std::move(keys.begin(), keys.end(), std::back_inserter(schema.keys));
  }
  schema.refused = refused_keys();
  return schema;
}

}  // namespace

const Schema<EngineConfig>& engine_schema() {
  static const Schema<EngineConfig> schema = make_schema();
  return schema;
}

std::string_view to_string(MoeBackend backend) {
  return backend == MoeBackend::kWideEp ? "WideEP" : "CUTLASS";
}

}  // namespace wideep
