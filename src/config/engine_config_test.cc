#include "config/engine_config.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <set>

#include "base/file.h"
#include "base/file_testing.h"

namespace wideep {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

EngineConfig parsed(std::string_view yaml, const EngineOverrides& flags = {}) {
  Result<EngineConfig> config = parse_engine_config(yaml, "e.yaml", flags);
  EXPECT_TRUE(config.is_ok()) << config.status().message();
  return config.is_ok() ? *std::move(config) : EngineConfig();
}

std::string refusal(std::string_view yaml, const EngineOverrides& flags = {}) {
  const Result<EngineConfig> config = parse_engine_config(yaml, "e.yaml", flags);
  EXPECT_FALSE(config.is_ok()) << yaml;
  return config.status().message();
}

// A folder with the files of the seeds' examples.
class EngineConfigFiles : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_.write("moe_load_balancer.yaml", "num_slots: 288\nlayer_updates_per_iter: 2\n");
  }
  const TemporaryFolder folder_;
};

TEST(EngineConfig, DefaultsOfAnEmptyFile) {
  const EngineConfig config = parsed("");
  EXPECT_EQ(config.parallel.tensor_parallel_size, 1);
  EXPECT_FALSE(config.parallel.moe_expert_parallel_size);
  EXPECT_EQ(config.moe.backend, MoeBackend::kCutlass);
  EXPECT_FALSE(config.moe.load_balancer);
  EXPECT_EQ(config.max_batch_size, 2048);
  EXPECT_DOUBLE_EQ(config.kv_cache.free_gpu_memory_fraction, 0.9);
  ASSERT_TRUE(config.cuda_graph);
  EXPECT_EQ(config.cuda_graph->max_batch_size, 128);
  EXPECT_TRUE(config.origins.empty());
}

TEST_F(EngineConfigFiles, WideEpOfTheReadme) {
  const std::string path = folder_.write("new.yaml",
                                         "enable_attention_dp: true\n"
                                         "moe_config:\n"
                                         "    backend: WideEP\n"
                                         "    max_num_tokens: 9216\n"
                                         "    load_balancer: ./moe_load_balancer.yaml\n");
  const Result<EngineConfig> config = load_engine_config(path, {.tp = 36, .ep = 36});
  ASSERT_TRUE(config.is_ok()) << config.status().message();
  EXPECT_EQ(config->moe.backend, MoeBackend::kWideEp);
  EXPECT_EQ(config->moe.max_num_tokens, 9216);
  EXPECT_EQ(config->parallel.tensor_parallel_size, 36);
  EXPECT_EQ(config->moe.load_balancer_path, folder_ / "moe_load_balancer.yaml");
  EXPECT_EQ(config->moe.load_balancer->num_slots, 288);
  EXPECT_EQ(config->origins.at("moe_config.backend").place, path + ":3");
  EXPECT_EQ(config->origins.at("moe_expert_parallel_size").place, "--ep");
}

TEST(EngineConfig, FlagsForKeysThatAreNoNumbers) {
  const Result<EngineConfig> config = parse_engine_config("load_format: auto\n", "e.yaml",
                                                          {.tp = 2,
                                                           .enable_attention_dp = true,
                                                           .enable_chunked_prefill = true,
                                                           .load_format = LoadFormat::kDummy});
  ASSERT_TRUE(config.is_ok()) << config.status().message();
  EXPECT_TRUE(config->parallel.enable_attention_dp);
  EXPECT_TRUE(config->enable_chunked_prefill);
  EXPECT_EQ(config->load_format, LoadFormat::kDummy);
  EXPECT_EQ(config->origins.at("load_format").place, "--load_format over e.yaml:1");
}

TEST_F(EngineConfigFiles, FlatKeysOfTheBalancerGuide) {
  const std::string path = folder_.write("old.yaml",
                                         "enable_attention_dp: true\n"
                                         "use_cuda_graph: true\n"
                                         "moe_max_num_tokens: 9216\n"
                                         "moe_load_balancer: ./moe_load_balancer.yaml\n");
  const Result<EngineConfig> config =
      load_engine_config(path, {.tp = 36, .ep = 36, .kv_cache_free_gpu_mem_fraction = 0.75});
  ASSERT_TRUE(config.is_ok()) << config.status().message();
  EXPECT_EQ(config->moe.backend, MoeBackend::kWideEp) << "follows from the balancer";
  EXPECT_EQ(config->moe.max_num_tokens, 9216);
  EXPECT_EQ(config->moe.load_balancer->layer_updates_per_iter, 2);
  EXPECT_DOUBLE_EQ(config->kv_cache.free_gpu_memory_fraction, 0.75);
  EXPECT_EQ(config->origins.at("moe_config.max_num_tokens").key, "moe_max_num_tokens");
}

TEST_F(EngineConfigFiles, ResolvedConfigurationReadsBackAsItself) {
  const std::string texts[] = {
      "",
      "enable_attention_dp: true\nuse_cuda_graph: false\nmoe_load_balancer: "
      "moe_load_balancer.yaml\n"
      "tensor_parallel_size: 4\nmoe_expert_parallel_size: 4\n",
      "enable_attention_dp: true\ntensor_parallel_size: 2\nmoe_expert_parallel_size: 2\n"
      "moe_config: {load_balancer: {num_slots: 4, initial_global_assignments: {3: [0, 1, 2, 0]}}}\n"
      "enable_chunked_prefill: true\n",
      "enable_attention_dp: true\ntensor_parallel_size: 2\nmoe_expert_parallel_size: 2\n"
      "moe_config: {load_balancer: {num_slots: 4, layer_updates_per_iter: 3, decay: 0.75,\n"
      "  weight_source: host, combine: exact}}\n"
      "speculative_config: {decoding_type: MTP, num_nextn_predict_layers: 3}\n",
      "tensor_parallel_size: 8\ncontext_parallel_size: 2\ncp_config: {cp_type: ring}\n"
      "kv_cache_config: {dtype: FP8, enable_block_reuse: false, max_tokens: 1000}\n"
      "cache_transceiver_config: {backend: default, max_tokens_in_buffer: 8448}\n"
      "cuda_graph_config: {enable_padding: true, max_batch_size: 512}\nload_format: dummy\n",
  };
  for (const std::string& text : texts) {
    const std::string path = folder_.write("e.yaml", text);
    const Result<EngineConfig> config = load_engine_config(path);
    ASSERT_TRUE(config.is_ok()) << config.status().message();
    const auto without_origins = [](EngineConfig c) {
      c.origins.clear();
      return engine_config_yaml(c);
    };
    const EngineConfig again = parsed(engine_config_yaml(*config));
    EXPECT_EQ(without_origins(again), without_origins(*config));
    EXPECT_EQ(again.moe.load_balancer.has_value(), config->moe.load_balancer.has_value());
  }
}

// Written out they would be refused when read back, because the plan is static.
TEST(EngineConfig, ABalancersDefaultsAreComments) {
  const EngineConfig config = parsed(
      "tensor_parallel_size: 2\nmoe_expert_parallel_size: 2\nenable_attention_dp: true\n"
      "moe_config: {load_balancer: {num_slots: 4, combine: exact}}\n");
  EXPECT_THAT(engine_config_yaml(config),
              HasSubstr("  load_balancer:\n"
                        "    num_slots: 4\n"
                        "    layer_updates_per_iter: 0\n"
                        "    combine: exact\n"
                        "    # default: initial_global_assignments: null\n"
                        "    # default: replica_choice: per_batch\n"
                        "    # default: decay: 0.95\n"));
}

TEST_F(EngineConfigFiles, LoadBalancerIsNullPathOrMap) {
  EXPECT_FALSE(parsed("moe_config: {load_balancer: null}").moe.load_balancer);
  const std::string sizes =
      "enable_attention_dp: true\ntensor_parallel_size: 4\nmoe_expert_parallel_size: 4\n";
  EXPECT_EQ(parsed(sizes + "moe_load_balancer: {num_slots: 8}\n").moe.load_balancer->num_slots, 8);

  EXPECT_EQ(refusal(sizes + "moe_load_balancer: ./none.yaml\n"),
            "e.yaml:4: moe_load_balancer: ./none.yaml: no such file beside the configuration or in "
            "the working directory");
  EXPECT_THAT(refusal(sizes + "moe_load_balancer: [1]\n"), HasSubstr("must be a path, a map"));
  const std::string broken =
      folder_.write("broken.yaml", "num_slots: 8\nlayer_update_per_iter: 3\n");
  EXPECT_EQ(
      refusal(sizes + "moe_load_balancer: " + broken + "\n"),
      broken +
          ":2: layer_update_per_iter: 3: unknown key (did you mean \"layer_updates_per_iter\"?)");
}

TEST(EngineConfig, NamesAreCaseInsensitive) {
  const EngineOverrides flags{.tp = 8, .ep = 8, .enable_attention_dp = true};
  for (const char* name : {"WideEP", "WIDEEP", "wideep"}) {
    EXPECT_EQ(parsed(fmt::format("moe_backend: {}", name), flags).moe.backend, MoeBackend::kWideEp);
  }
  EXPECT_EQ(parsed("moe_backend: cutlass").moe.backend, MoeBackend::kCutlass);
  EXPECT_THAT(refusal("moe_backend: DEEPGEMM"),
              StartsWith("e.yaml:1: moe_backend: DEEPGEMM: must be CUTLASS | WideEP: this is a "
                         "backend of TensorRT-LLM"));
  EXPECT_EQ(refusal("moe_config: {backend: CUTLAS}"),
            "e.yaml:1: moe_config.backend: CUTLAS: must be CUTLASS | WideEP (did you mean "
            "\"CUTLASS\"?)");
}

TEST(EngineConfig, OneGenerationOfAKeyOnly) {
  EXPECT_EQ(refusal("moe_config:\n  backend: CUTLASS\nmoe_backend: CUTLASS\n"),
            "e.yaml:3: moe_backend: already given as moe_config.backend at e.yaml:2: keep one");
  EXPECT_THAT(refusal("use_cuda_graph: true\ncuda_graph_config: {}\n"),
              HasSubstr("already given as use_cuda_graph at e.yaml:1"));
  EXPECT_THAT(refusal("print_iter_log: true\npytorch_backend_config: {print_iter_log: true}\n"),
              HasSubstr("pytorch_backend_config.print_iter_log: already given"));
}

TEST(EngineConfig, OldestKeysStandInTheirOwnMap) {
  const EngineConfig config = parsed(
      "pytorch_backend_config:\n"
      "  use_cuda_graph: true\n"
      "  cuda_graph_batch_sizes: [8, 1, 4, 8]\n"
      "  cuda_graph_padding_enabled: yes\n"
      "  enable_overlap_scheduler: false\n"
      "  kv_cache_dtype: fp8\n"
      "  moe_max_num_tokens: 100\n");
  EXPECT_THAT(config.cuda_graph->batch_sizes, ElementsAre(1, 4, 8));
  EXPECT_EQ(config.cuda_graph->max_batch_size, 8);
  EXPECT_TRUE(config.cuda_graph->enable_padding);
  EXPECT_TRUE(config.disable_overlap_scheduler);
  EXPECT_EQ(config.kv_cache.dtype, KvCacheType::kFp8);
  EXPECT_EQ(config.moe.max_num_tokens, 100);
}

TEST(EngineConfig, NullSwitchesCudaGraphsOff) {
  EXPECT_FALSE(parsed("cuda_graph_config: null").cuda_graph);
  EXPECT_FALSE(parsed("use_cuda_graph: false").cuda_graph);
  EXPECT_TRUE(parsed("cuda_graph_config: {}").cuda_graph);
  EXPECT_TRUE(parsed("use_cuda_graph: true").cuda_graph);
  const std::string off = "cannot act: use_cuda_graph turns it off at e.yaml:";
  EXPECT_THAT(refusal("use_cuda_graph: false\ncuda_graph_batch_sizes: [1]\n"),
              HasSubstr("e.yaml:2: cuda_graph_batch_sizes: given: " + off + "1"));
  EXPECT_THAT(refusal("cuda_graph_batch_sizes: [1]\nuse_cuda_graph: false\n"),
              HasSubstr("e.yaml:1: cuda_graph_batch_sizes: given: " + off + "2"));
  EXPECT_THAT(refusal("moe_config: null"), HasSubstr("moe_config: null: must be a map"));
  EXPECT_THAT(refusal("cuda_graph_config: 3"), HasSubstr("must be a map or null"));
}

TEST(EngineConfig, FlagsGoOverTheFile) {
  const EngineConfig config =
      parsed("tensor_parallel_size: 2\nmax_seq_len: 10\n",
             {.tp = 8, .pp = 2, .cp = 1, .moe_tp = 2, .ep = 4, .max_batch_size = 16});
  EXPECT_EQ(config.parallel.tensor_parallel_size, 8);
  EXPECT_EQ(config.parallel.moe_expert_parallel_size, 4);
  EXPECT_EQ(config.max_batch_size, 16);
  EXPECT_EQ(config.cuda_graph->max_batch_size, 16);
  EXPECT_EQ(config.origins.at("tensor_parallel_size").place, "--tp over e.yaml:1");
  EXPECT_EQ(
      refusal("", {.tp = 0, .cluster = 2}),
      "--tp: tensor_parallel_size: 0: must be an integer 1 to 1024\n"
      "--cluster_size: moe_cluster_parallel_size: 2: must be 1: wideep has no expert clusters");
}

TEST(EngineConfig, AutomaticSizes) {
  EXPECT_FALSE(parsed("moe_tensor_parallel_size: -1").parallel.moe_tensor_parallel_size);
  EXPECT_FALSE(parsed("moe_tensor_parallel_size: null").parallel.moe_tensor_parallel_size);
  parsed("moe_cluster_parallel_size: -1\nattn_cp_size: 1\n");
  EXPECT_THAT(refusal("moe_tensor_parallel_size: -2"), HasSubstr("must be an integer 1 to 1024"));
  EXPECT_THAT(refusal("attn_cp_size: 2"), HasSubstr("must be 1: attention is split by"));
}

TEST(EngineConfig, ReportsAllViolationsAtOnceInTheFilesOrder) {
  EXPECT_EQ(
      refusal("moe_confg: {}\n"
              "tensor_parallel_size: eight\n"
              "moe_config:\n"
              "  bakend: x\n"
              "  max_num_tokens: 0\n"
              "  use_low_precision_moe_combine: true\n"
              "kv_cache_config: {free_gpu_memory_fraction: 1.5, dtype: nvfp4}\n"
              "lora_config: {}\n"
              "num_slots: 288\n"
              "batch_sizes: [1]\n"
              "cuda_graph_config: {batch_sizes: [1, x]}\n"),
      "e.yaml:1: moe_confg: a map: unknown key (did you mean \"moe_config\"?)\n"
      "e.yaml:2: tensor_parallel_size: eight: must be an integer 1 to 1024\n"
      "e.yaml:4: moe_config.bakend: x: unknown key (did you mean \"backend\"?)\n"
      "e.yaml:5: moe_config.max_num_tokens: 0: must be an integer >= 1 or null\n"
      "e.yaml:6: moe_config.use_low_precision_moe_combine: true: must be false: combine always "
      "sums "
      "in fp32\n"
      "e.yaml:7: kv_cache_config.free_gpu_memory_fraction: 1.5: must be a number, more than 0, at "
      "most 1\n"
      "e.yaml:7: kv_cache_config.dtype: nvfp4: must be auto | bfloat16 | fp8: there are no kernels "
      "for it\n"
      "e.yaml:8: lora_config: a map: LoRA is not supported\n"
      "e.yaml:9: num_slots: 288: is a key of the load balancer: give it in "
      "moe_config.load_balancer\n"
      "e.yaml:10: batch_sizes: a list of 1: unknown key (did you mean "
      "\"cuda_graph_config.batch_sizes\"?)\n"
      "e.yaml:11: cuda_graph_config.batch_sizes: a list of 2: must be a list of integer 1 to "
      "65536, "
      "or null");
}

TEST(EngineConfig, DoubtfulKeysCauseNoSecondViolation) {
  EXPECT_EQ(refusal("tensor_parallel_size: eight\nmoe_expert_parallel_size: 8\n"),
            "e.yaml:1: tensor_parallel_size: eight: must be an integer 1 to 1024");
  EXPECT_EQ(refusal("tensor_paralel_size: 8\nmoe_expert_parallel_size: 8\n"),
            "e.yaml:1: tensor_paralel_size: 8: unknown key (did you mean "
            "\"tensor_parallel_size\"?)");
}

TEST(EngineConfig, ManyViolationsAreCut) {
  std::string text;
  for (int i = 0; i < 150; ++i) text += fmt::format("unknown_{}: 1\n", i);
  EXPECT_THAT(refusal(text), HasSubstr("... and 50 more"));
}

TEST(EngineConfig, CudaGraphBatchSizes) {
  EXPECT_THAT(cuda_graph_batch_sizes(1, true), ElementsAre(1));
  EXPECT_THAT(cuda_graph_batch_sizes(20, true), ElementsAre(1, 2, 4, 8, 16, 20));
  EXPECT_THAT(cuda_graph_batch_sizes(3, false), ElementsAre(1, 2, 3));
  const std::vector<int> padded = cuda_graph_batch_sizes(2048, true);
  EXPECT_EQ(padded.size(), 49u) << "3 + 16 multiples of 8 + 30 of 64";
  const std::vector<int> exact = cuda_graph_batch_sizes(600, false);
  EXPECT_EQ(exact.size(), 37u) << "1 to 32, 64, 128, 256, 512, 600";
  for (const bool padding : {false, true}) {
    for (int max = 1; max <= 5000; max += 7) {
      const std::vector<int> sizes = cuda_graph_batch_sizes(max, padding);
      EXPECT_EQ(sizes.back(), max);
      EXPECT_EQ(sizes.front(), 1);
      EXPECT_EQ(std::ranges::adjacent_find(sizes, std::greater_equal<>()), sizes.end());
    }
  }
}

TEST(EngineConfig, DocumentationListsExactlyTheKeys) {
  const Result<std::string> text = read_file(WIDEEP_SOURCE_DIR "/docs/configuration.md");
  ASSERT_TRUE(text.is_ok()) << text.status().message();
  EXPECT_THAT(*text, HasSubstr(config_keys_markdown()))
      << "run `wideep config keys` and put its output there";
}

TEST(EngineConfig, EveryKeyIsDocumentedOnce) {
  std::set<std::string> paths;
  for (const KeyDoc& key : config_keys()) {
    EXPECT_TRUE(paths.insert(key.path).second) << key.path;
    if (key.target.empty()) {
      EXPECT_FALSE(key.doc.empty()) << key.path;
      EXPECT_FALSE(key.type.empty()) << key.path;
    }
  }
  for (const KeyDoc& key : config_keys()) {
    if (key.target.empty() || key.target == "cuda_graph_config") continue;
    EXPECT_TRUE(paths.contains(key.target)) << key.path << " -> " << key.target;
  }
}

// The blocks that start with "# engine.yaml" are whole configurations.
TEST_F(EngineConfigFiles, ExamplesOfTheDocumentationLoad) {
  const Result<std::string> text = read_file(WIDEEP_SOURCE_DIR "/docs/configuration.md");
  ASSERT_TRUE(text.is_ok());
  int examples = 0;
  size_t begin = 0;
  const std::string fence = "```yaml\n";
  while ((begin = text->find(fence, begin)) != std::string::npos) {
    begin += fence.size();
    const std::string block = text->substr(begin, text->find("```", begin) - begin);
    if (!block.starts_with("# engine.yaml")) continue;
    const Result<EngineConfig> config = load_engine_config(folder_.write("engine.yaml", block));
    EXPECT_TRUE(config.is_ok()) << block << config.status().message();
    ++examples;
  }
  EXPECT_GE(examples, 8);
}

}  // namespace
}  // namespace wideep
