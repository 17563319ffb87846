// The recorder with ranks whose routing is a function of what they are: every layout must count the
// same choices once.
#include "engine/statistics_recorder.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/file_testing.h"
#include "base/random.h"
#include "dist/world.h"

namespace wideep::engine {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr int kExperts = 6;
constexpr int kTopK = 2;
constexpr uint64_t kIterations = 9;

ModelConfig small_model() {
  ModelConfig config;
  config.num_layers = 5;
  config.moe_layers = {1, 2, 4};
  config.moe.num_experts = kExperts;
  config.moe.top_k = kTopK;
  return config;
}

// Has observers and nothing else.
class ObservedModel : public models::Model {
 public:
  models::KvSpec kv_spec() const override { return {}; }
  models::ModelMemory memory() const override { return {}; }
  Status set_kv_memory(const models::KvMemory&) override { return Status::ok(); }
  moe::WideEp* wide_ep() override { return nullptr; }
  void add_routing_observer(models::RoutingObserver& observer) override { list_.add(observer); }
  void remove_routing_observer(models::RoutingObserver& observer) override {
    list_.remove(observer);
  }
  Status forward(const models::Batch&, MatrixView) override { return Status::ok(); }

  models::RoutingObserver* observer() { return list_.target(); }

 private:
  models::RoutingObserverList list_;
};

// The ranks that have rows of their own: what their choices depend on.
struct Owner {
  uint64_t replica = 0;
  uint64_t dp_rank = 0;
  uint64_t cp_rank = 0;
};

// A few tokens' choices, at times none.
std::vector<int32_t> routed(const Owner& owner, uint64_t iteration, int layer) {
  Random random(
      5, {owner.replica, owner.dp_rank, owner.cp_rank, iteration, static_cast<uint64_t>(layer)});
  std::vector<int32_t> ids(random.below(6) * kTopK);
  for (int32_t& id : ids) id = static_cast<int32_t>(random.below(kExperts + 1)) - 1;  // -1: none
  return ids;
}

// Slot 2 e or 2 e + 1 of expert e; any rule that is not the expert itself.
int32_t slot_of(int32_t expert, size_t at) {
  return expert < 0 ? -1 : 2 * expert + static_cast<int32_t>(at % 2);
}

struct Layout {
  const char* name = "";
  ParallelConfig parallel = {};
  int num_slots = 0;  // 0: no balancer
  uint64_t replicas = 1;
  uint64_t iterations = kIterations;  // of the last replica; the others have two fewer
};

struct Case {
  Layout layout;
  StatisticsOptions window;
  // On every rank, after the window's last iteration.
  std::function<void(const StatisticsRecorder&, dist::Communicator&)> at_window_end = {};
};

EngineConfig engine_of(const Layout& layout) {
  EngineConfig engine;
  engine.parallel = layout.parallel;
  if (layout.num_slots > 0) {
    engine.moe.load_balancer = BalancerConfig{.num_slots = layout.num_slots};
  }
  return engine;
}

uint64_t iterations_of(const Layout& layout, uint64_t replica) {
  return replica + 1 == layout.replicas ? layout.iterations : layout.iterations - 2;
}

// What the layers of this rank's stage tell their observer in an iteration.
void route(ObservedModel& model, const Mapping& mapping, const dist::Groups& groups,
           const Layout& layout, uint64_t iteration) {
  const Coordinates& rank = groups.coordinates;
  const bool is_dp = layout.parallel.enable_attention_dp;
  const Owner owner{static_cast<uint64_t>(groups.replica),
                    static_cast<uint64_t>(is_dp ? rank.tp_rank : 0),
                    static_cast<uint64_t>(rank.cp_rank)};
  const ModelConfig config = small_model();
  const Mapping::Layers stage = mapping.layers(rank.pp_rank, config.num_layers);
  models::RoutingObserver* observer = model.observer();
  if (observer == nullptr) return;
  for (const int layer : config.moe_layers) {
    if (layer < stage.begin || layer >= stage.end) continue;
    const std::vector<int32_t> ids = routed(owner, iteration, layer);
    observer->on_routing(layer, 0, ids, kTopK);
    if (layout.num_slots == 0) continue;
    // In two chunks.
    std::vector<int32_t> slots;
    for (size_t i = 0; i < ids.size(); ++i) slots.push_back(slot_of(ids[i], i));
    const size_t half = slots.size() / 2;
    observer->on_slots(layer, std::span(slots).first(half));
    observer->on_slots(layer, std::span(slots).subspan(half));
  }
}

// Runs all iterations on every rank. The outcomes that were told, which is at most one.
std::vector<StatisticsOutcome> record(const Case& test) {
  const Layout& layout = test.layout;
  const ModelConfig config = small_model();
  const EngineConfig engine = engine_of(layout);
  const Mapping mapping = Mapping::create(layout.parallel).value();
  const int size = mapping.world() * static_cast<int>(layout.replicas);
  dist::World world = dist::World::local(size).value();
  std::vector<StatisticsOutcome> outcomes;
  const Status status = world.run([&](dist::Communicator& communicator) -> Status {
    ASSIGN_OR_RETURN(const dist::Groups groups, dist::make_groups(mapping, communicator));
    ObservedModel model;
    RecorderSetup setup{
        .config = &config,
        .engine = &engine,
        .mapping = &mapping,
        .groups = &groups,
        .world = &communicator,
        .model = &model,
        .on_outcome = [&](const StatisticsOutcome& outcome) { outcomes.push_back(outcome); }};
    if (communicator.rank() == 0) setup.statistics = test.window;
    ASSIGN_OR_RETURN(const auto recorder, StatisticsRecorder::create(std::move(setup)));
    const uint64_t iterations = iterations_of(layout, static_cast<uint64_t>(groups.replica));
    for (uint64_t i = 0; i < iterations; ++i) {
      recorder->begin_iteration(static_cast<int64_t>(i));
      const bool in_window = static_cast<int>(i) >= test.window.iter_start &&
                             static_cast<int>(i) < test.window.iter_stop;
      EXPECT_EQ(model.observer() != nullptr, in_window) << "iteration " << i;
      route(model, mapping, groups, layout, i);
      RETURN_IF_ERROR(recorder->end_iteration());
      const bool ended = static_cast<int>(i) + 1 == test.window.iter_stop;
      if (ended && test.at_window_end) test.at_window_end(*recorder, communicator);
    }
    RETURN_IF_ERROR(recorder->finish());
    EXPECT_EQ(recorder->outcome() != nullptr, communicator.rank() == 0);
    return recorder->finish();  // does nothing
  });
  EXPECT_EQ(status.message(), "");
  return outcomes;
}

// [iterations, layers, width] over all owners of rows, counted one by one.
std::vector<int64_t> expected_counts(const Layout& layout, int iter_start, int iter_stop,
                                     bool by_slot) {
  const ModelConfig config = small_model();
  const int width = by_slot ? layout.num_slots : kExperts;
  const bool is_dp = layout.parallel.enable_attention_dp;
  const uint64_t dp = is_dp ? static_cast<uint64_t>(layout.parallel.tensor_parallel_size) : 1;
  const auto cp = static_cast<uint64_t>(layout.parallel.context_parallel_size);
  std::vector<int64_t> counts;
  for (int i = iter_start; i < iter_stop; ++i) {
    for (const int layer : config.moe_layers) {
      std::vector<int64_t> row(static_cast<size_t>(width));
      const auto add = [&](const Owner& owner) {
        if (static_cast<uint64_t>(i) >= iterations_of(layout, owner.replica)) return;
        const std::vector<int32_t> ids = routed(owner, static_cast<uint64_t>(i), layer);
        for (size_t at = 0; at < ids.size(); ++at) {
          if (ids[at] >= 0) ++row[by_slot ? slot_of(ids[at], at) : ids[at]];
        }
      };
      for (uint64_t r = 0; r < layout.replicas; ++r) {
        for (uint64_t d = 0; d < dp; ++d) {
          for (uint64_t c = 0; c < cp; ++c) add({r, d, c});
        }
      }
      counts.insert(counts.end(), row.begin(), row.end());
    }
  }
  return counts;
}

class RecorderLayouts : public ::testing::TestWithParam<Layout> {};

TEST_P(RecorderLayouts, CountsEveryChoiceOnce) {
  const Layout& layout = GetParam();
  const TemporaryFolder folder;
  const std::string path = folder / "statistics";
  const auto outcomes = record({layout, {path, 3, 8}});
  ASSERT_EQ(outcomes.size(), 1U);
  EXPECT_EQ(outcomes[0].status.message(), "");
  EXPECT_EQ(outcomes[0].iter_stop, 8);
  const bool has_slots = layout.num_slots > 0;
  const eplb::Statistics statistics = eplb::read_statistics(path).value();
  EXPECT_EQ(statistics.tokens, expected_counts(layout, 3, 8, has_slots));
  EXPECT_EQ(statistics.num_experts, has_slots ? layout.num_slots : kExperts);
  EXPECT_EQ(statistics.top_k, kTopK);
  EXPECT_THAT(statistics.layers, ElementsAre(1, 2, 4));
  EXPECT_EQ(statistics.num_ranks, Mapping::create(layout.parallel)->moe_ep());
  EXPECT_EQ(outcomes[0].counts->tokens, statistics.tokens);
  EXPECT_EQ(outcomes[0].counts->num_ranks, statistics.num_ranks);
  const int last = outcomes[0].num_ranks - 1;
  EXPECT_TRUE(path_exists(fmt::format("{}/rank{}.safetensors", path, last)));
  EXPECT_FALSE(path_exists(fmt::format("{}/rank{}.safetensors", path, last + 1)));
  EXPECT_EQ(path_exists(path + "/experts"), has_slots);
  if (!has_slots) return;
  const eplb::Statistics experts = eplb::read_statistics(path + "/experts").value();
  EXPECT_EQ(experts.tokens, expected_counts(layout, 3, 8, false));
  EXPECT_EQ(experts.num_ranks, statistics.num_ranks);
}

ParallelConfig sizes(int tp, int ep, bool attention_dp, int pp = 1, int cp = 1) {
  ParallelConfig parallel;
  parallel.tensor_parallel_size = tp;
  parallel.moe_expert_parallel_size = ep;
  parallel.enable_attention_dp = attention_dp;
  parallel.pipeline_parallel_size = pp;
  parallel.context_parallel_size = cp;
  return parallel;
}

INSTANTIATE_TEST_SUITE_P(
    All, RecorderLayouts,
    ::testing::Values(Layout{.name = "one"}, Layout{.name = "tp", .parallel = sizes(4, 1, false)},
                      Layout{.name = "ep", .parallel = sizes(3, 3, false)},
                      Layout{.name = "dp_ep", .parallel = sizes(3, 3, true)},
                      Layout{.name = "dp_etp", .parallel = sizes(4, 2, true)},
                      Layout{.name = "cp", .parallel = sizes(2, 2, false, 1, 2)},
                      Layout{.name = "pp", .parallel = sizes(1, 1, false, 3)},
                      Layout{.name = "dp_pp_cp", .parallel = sizes(2, 2, true, 2, 2)},
                      Layout{.name = "replicas", .parallel = sizes(2, 2, true), .replicas = 3},
                      Layout{.name = "slots", .parallel = sizes(3, 3, true), .num_slots = 12},
                      Layout{.name = "slots_pp_replicas",
                             .parallel = sizes(2, 2, true, 2),
                             .num_slots = 12,
                             .replicas = 2}),
    [](const auto& info) { return info.param.name; });

TEST(StatisticsRecorder, AKnownRunFromCountToFile) {
  const TemporaryFolder folder;
  record({{}, {folder / "s", 0, 1}});
  EXPECT_EQ(contents_of(folder / "s/meta_info.json"),
            R"({"num_experts": 6, "num_experts_per_token": 2})");
  EXPECT_THAT(list_directory(folder / "s").value(),
              ElementsAre("meta_info.json", "rank0.safetensors"));
}

// Two files, but experts on one rank: what the file count would hide.
TEST(StatisticsRecorder, SaysTheEpSizeWhereItIsNotTheNumberOfFiles) {
  const TemporaryFolder folder;
  record({{.parallel = sizes(2, 1, false)}, {folder / "s", 0, 1}});
  EXPECT_EQ(contents_of(folder / "s/meta_info.json"),
            R"({"num_experts": 6, "num_experts_per_token": 2, "ep_size": 1})");
}

TEST(StatisticsRecorder, WritesWhenTheWindowEndsAndSaysSo) {
  const TemporaryFolder folder;
  const std::string path = folder / "s";
  const auto outcomes = record({{.parallel = sizes(2, 2, true)},
                                {path, 2, 5},
                                [&](const StatisticsRecorder& recorder, dist::Communicator& world) {
                                  if (world.rank() != 0) return;
                                  ASSERT_NE(recorder.outcome(), nullptr)
                                      << "four iterations are still to come";
                                  EXPECT_TRUE(eplb::read_statistics(path).is_ok());
                                }});
  ASSERT_EQ(outcomes.size(), 1U);
  EXPECT_EQ(describe(outcomes[0]), "expert statistics: iterations 2-5, 3 layers, 2 ranks: " + path);
}

TEST(StatisticsRecorder, ARunThatEndsEarlyLeavesWhatItHas) {
  const TemporaryFolder folder;
  const Layout layout{.parallel = sizes(2, 2, true)};
  const auto outcomes = record({layout, {folder / "s", 6, 100}});
  ASSERT_EQ(outcomes.size(), 1U);
  EXPECT_EQ(describe(outcomes[0]),
            "expert statistics: iterations 6-9 of 6-100 (the run ended after 9 iterations), 3 "
            "layers, 2 ranks: " +
                (folder / "s"));
  const eplb::Statistics statistics = eplb::read_statistics(folder / "s").value();
  EXPECT_EQ(statistics.iter_stop, 9);
  EXPECT_EQ(statistics.tokens, expected_counts(layout, 6, 9, false));
}

TEST(StatisticsRecorder, NothingRecordedIsSaidAndLeavesTheFolderAlone) {
  const TemporaryFolder folder;
  const std::string path = folder / "s";
  record({{}, {path, 0, 2}});
  const std::string before = contents_of(path + "/rank0.safetensors");
  const auto outcomes = record({{.parallel = sizes(2, 2, true)}, {path, 9, 12}});
  ASSERT_EQ(outcomes.size(), 1U);
  EXPECT_FALSE(outcomes[0].counts);
  EXPECT_EQ(describe(outcomes[0]),
            "expert statistics: nothing recorded: the run ended after 9 iterations, the window is "
            "9-12");
  EXPECT_EQ(contents_of(path + "/rank0.safetensors"), before);
}

TEST(StatisticsRecorder, AReplicaThatNeverReachesTheWindowHasZeros) {
  const TemporaryFolder folder;
  const Layout layout{.parallel = sizes(2, 2, true), .replicas = 2};  // 7 and 9 iterations
  const auto outcomes = record({layout, {folder / "s", 7, 9}});
  ASSERT_EQ(outcomes.size(), 1U);
  EXPECT_EQ(eplb::read_statistics(folder / "s").value().tokens,
            expected_counts(layout, 7, 9, false));
}

// The folder must not keep a half, and the run must go on to its end, which record() checks.
TEST(StatisticsRecorder, AFullDiskIsAStatusAndNoLostRun) {
  const TemporaryFolder folder;
  const std::string path = folder / "s";
  record({{}, {path, 0, 2}});
  const std::string before = contents_of(path + "/rank0.safetensors");
  const FileSizeLimit full(100);
  const auto outcomes = record({{.parallel = sizes(2, 2, true)}, {path, 0, 4}});
  ASSERT_EQ(outcomes.size(), 1U);
  EXPECT_EQ(outcomes[0].status.code(), StatusCode::kIo);
  EXPECT_THAT(describe(outcomes[0]),
              HasSubstr("expert statistics: iterations 0-4 recorded but lost: " + path));
  EXPECT_EQ(outcomes[0].counts->num_iterations(), 4) << "what was counted is still there";
  EXPECT_EQ(contents_of(path + "/rank0.safetensors"), before);
}

TEST(StatisticsRecorder, AFolderThatCannotBeWrittenIsAnErrorAtTheStart) {
  const TemporaryFolder folder;
  folder.write("thesis.tex", "");
  const ModelConfig config = small_model();
  const EngineConfig engine;
  const Mapping mapping = Mapping::create(engine.parallel).value();
  for (const std::string& path : {folder.path(), folder / "thesis.tex", folder / "thesis.tex/s"}) {
    dist::World world = dist::World::local(1).value();
    const Status status = world.run([&](dist::Communicator& communicator) -> Status {
      ASSIGN_OR_RETURN(const dist::Groups groups, dist::make_groups(mapping, communicator));
      ObservedModel model;
      return StatisticsRecorder::create({.statistics = StatisticsOptions{path, 0, 1},
                                         .config = &config,
                                         .engine = &engine,
                                         .mapping = &mapping,
                                         .groups = &groups,
                                         .world = &communicator,
                                         .model = &model})
          .status();
    });
    EXPECT_THAT(status.message(), HasSubstr(path));
  }
  EXPECT_THAT(list_directory(folder.path()).value(), ElementsAre("thesis.tex"));
}

}  // namespace
}  // namespace wideep::engine
