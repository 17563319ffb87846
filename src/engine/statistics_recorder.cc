#include "engine/statistics_recorder.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <functional>
#include <numeric>
#include <utility>

#include "base/check.h"

namespace wideep::engine {
namespace {

constexpr int kTag = 0x57A7;  // of messages between ranks of the world

void add_to(eplb::Statistics& sums, const std::vector<eplb::RankCounts>& counts) {
  auto sum = sums.tokens.begin();
  for (const eplb::RankCounts& entry : counts) {
    sum = std::transform(entry.tokens.begin(), entry.tokens.end(), sum, sum, std::plus<>());
  }
}

}  // namespace

std::string describe(const StatisticsOutcome& outcome) {
  const StatisticsOptions& asked = outcome.asked;
  const std::string window = fmt::format("{}-{}", asked.iter_start, asked.iter_stop);
  const std::string ended =
      fmt::format("the run ended after {} iterations", outcome.iterations_run);
  if (outcome.iter_stop == asked.iter_start) {
    return fmt::format("expert statistics: nothing recorded: {}, the window is {}", ended, window);
  }
  const bool is_whole = outcome.iter_stop == asked.iter_stop;
  const std::string recorded = is_whole
                                   ? fmt::format("iterations {}", window)
                                   : fmt::format("iterations {}-{} of {} ({})", asked.iter_start,
                                                 outcome.iter_stop, window, ended);
  if (!outcome.status.is_ok()) {
    return fmt::format("expert statistics: {} recorded but lost: {}", recorded,
                       outcome.status.message());
  }
  return fmt::format("expert statistics: {}, {} layers, {} ranks: {}", recorded,
                     outcome.counts->num_layers(), outcome.num_ranks, asked.folder);
}

Result<std::unique_ptr<StatisticsRecorder>> StatisticsRecorder::create(RecorderSetup setup) {
  dist::Communicator& world = *setup.world;
  // Other hosts need not have the variables.
  std::array<int32_t, 3> window{};
  if (const auto& statistics = setup.statistics; statistics && world.rank() == 0) {
    window = {1, statistics->iter_start, statistics->iter_stop};
  }
  RETURN_IF_ERROR(world.broadcast(std::as_writable_bytes(std::span(window)), 0));
  if (window[0] == 0) return std::unique_ptr<StatisticsRecorder>();
  if (!setup.statistics) setup.statistics.emplace();
  setup.statistics->iter_start = window[1];
  setup.statistics->iter_stop = window[2];
  auto recorder = std::unique_ptr<StatisticsRecorder>(new StatisticsRecorder(std::move(setup)));
  if (world.rank() == 0) {
    // Leaves the folder as it is.
    RETURN_IF_ERROR(
        eplb::StatisticsWriter::create(recorder->setup_.statistics->folder, recorder->layout())
            .status());
  }
  return recorder;
}

StatisticsRecorder::StatisticsRecorder(RecorderSetup setup) : setup_(std::move(setup)) {
  const ModelConfig& config = *setup_.config;
  const Coordinates& rank = setup_.groups->coordinates;
  index_of_layer_.assign(static_cast<size_t>(config.num_layers), -1);
  for (size_t i = 0; i < config.moe_layers.size(); ++i) {
    index_of_layer_[config.moe_layers[i]] = static_cast<int>(i);
  }
  const Mapping::Layers stage = setup_.mapping->layers(rank.pp_rank, config.num_layers);
  const auto index = [&](int layer) {
    return std::ranges::lower_bound(config.moe_layers, layer) - config.moe_layers.begin();
  };
  own_.layer_begin = index(stage.begin);
  own_.layer_end = index(stage.end);
  counts_rows_ = setup_.engine->parallel.enable_attention_dp || rank.tp_rank == 0;
  const eplb::StatisticsLayout widths = layout();
  views_.push_back({.width = widths.num_experts});
  if (widths.num_slots > 0) views_.push_back({.width = widths.num_slots});
}

StatisticsRecorder::~StatisticsRecorder() {
  attach(false);
}

eplb::StatisticsLayout StatisticsRecorder::layout() const {
  const auto& balancer = setup_.engine->moe.load_balancer;
  return {.num_experts = setup_.config->moe.num_experts,
          .top_k = setup_.config->moe.top_k,
          .num_slots = balancer ? balancer->num_slots.value_or(0) : 0,
          .ep_size = setup_.mapping->moe_ep()};
}

void StatisticsRecorder::attach(bool on) {
  if (on == is_attached_) return;
  if (on) {
    setup_.model->add_routing_observer(*this);
  } else {
    setup_.model->remove_routing_observer(*this);
  }
  is_attached_ = on;
}

void StatisticsRecorder::begin_iteration(int64_t iteration) {
  CHECK_EQ(iteration, iterations_run_);
  const StatisticsOptions& window = *setup_.statistics;
  if (iteration < window.iter_start || iteration >= window.iter_stop || is_collected_) return;
  attach(true);
  const auto layers = static_cast<size_t>(own_.layer_end - own_.layer_begin);
  for (View& view : views_) view.tokens.emplace_back(layers * static_cast<size_t>(view.width));
  ++own_.iterations;
}

void StatisticsRecorder::count(View& view, int layer, std::span<const int32_t> ids) const {
  const int64_t row = index_of_layer_[layer] - own_.layer_begin;
  CHECK(row >= 0 && row < own_.layer_end - own_.layer_begin);
  int64_t* tokens = view.tokens.back().data() + row * view.width;
  for (const int32_t id : ids) {
    if (id < 0) continue;  // not routed
    CHECK_LT(id, view.width);
    ++tokens[id];
  }
}

void StatisticsRecorder::on_routing(int layer, int /*first_row*/, std::span<const int32_t> ids,
                                    int /*top_k*/) {
  if (counts_rows_) count(views_.front(), layer, ids);
}

void StatisticsRecorder::on_slots(int layer, std::span<const int32_t> slots) {
  // Without a balancer slots are the experts again.
  if (counts_rows_ && views_.size() == 2) count(views_.back(), layer, slots);
}

Status StatisticsRecorder::end_iteration() {
  ++iterations_run_;
  if (!is_attached_) return Status::ok();
  if (views_.size() == 2) {
    // Every choice went to a slot.
    const auto sum = [](const View& view) {
      return std::accumulate(view.tokens.back().begin(), view.tokens.back().end(), int64_t{0});
    };
    CHECK_EQ(sum(views_.front()), sum(views_.back()));
  }
  if (iterations_run_ < setup_.statistics->iter_stop) return Status::ok();
  attach(false);
  // Other replicas are at iterations of their own.
  return setup_.groups->num_replicas == 1 ? collect() : Status::ok();
}

Status StatisticsRecorder::finish() {
  return is_collected_ ? Status::ok() : collect();
}

Status StatisticsRecorder::collect() {
  attach(false);
  is_collected_ = true;
  dist::Communicator& world = *setup_.world;
  std::vector<Part> parts(static_cast<size_t>(world.size()));
  RETURN_IF_ERROR(world.all_gather(std::as_bytes(std::span(&own_, 1)),
                                   std::as_writable_bytes(std::span(parts))));
  const int64_t most = std::ranges::max(parts, {}, &Part::iterations).iterations;
  if (world.rank() != 0) {
    if (most > 0) RETURN_IF_ERROR(send_counts());
  } else {
    StatisticsOutcome outcome;
    outcome.asked = *setup_.statistics;
    outcome.iter_stop = outcome.asked.iter_start + static_cast<int>(most);
    outcome.iterations_run = iterations_run_;
    outcome.num_ranks = world.size();
    outcome.ep_size = setup_.mapping->moe_ep();
    if (most > 0) RETURN_IF_ERROR(write_counts(parts, outcome));
    outcome_ = std::move(outcome);
    if (setup_.on_outcome) setup_.on_outcome(*outcome_);
  }
  for (View& view : views_) view.tokens = {};
  return Status::ok();
}

// When rank 0 asks (an empty message), so that it has the counts of one rank at a time.
Status StatisticsRecorder::send_counts() {
  dist::Communicator& world = *setup_.world;
  RETURN_IF_ERROR(world.recv({}, 0, kTag));
  for (const View& view : views_) {
    for (const std::vector<int64_t>& tokens : view.tokens) {
      RETURN_IF_ERROR(world.send(std::as_bytes(std::span(tokens)), 0, kTag));
    }
  }
  return Status::ok();
}

Result<std::vector<StatisticsRecorder::View>> StatisticsRecorder::counts_of(int rank,
                                                                            const Part& part) {
  dist::Communicator& world = *setup_.world;
  if (rank == world.rank()) return views_;
  RETURN_IF_ERROR(world.send({}, rank, kTag));
  std::vector<View> views;
  for (const View& own : views_) {
    View view{.width = own.width};
    const auto size = static_cast<size_t>((part.layer_end - part.layer_begin) * own.width);
    view.tokens.assign(static_cast<size_t>(part.iterations), std::vector<int64_t>(size));
    for (std::vector<int64_t>& tokens : view.tokens) {
      RETURN_IF_ERROR(world.recv(std::as_writable_bytes(std::span(tokens)), rank, kTag));
    }
    views.push_back(std::move(view));
  }
  return views;
}

// A rank's entries of the whole grid, which every file must have.
std::vector<eplb::RankCounts> StatisticsRecorder::rank_counts(const View& view, const Part& part,
                                                              int num_iterations) const {
  const std::vector<int>& layers = setup_.config->moe_layers;
  std::vector<eplb::RankCounts> counts;
  for (int i = 0; i < num_iterations; ++i) {
    for (int l = 0; l < std::ssize(layers); ++l) {
      std::vector<int64_t> row(static_cast<size_t>(view.width));
      if (i < part.iterations && l >= part.layer_begin && l < part.layer_end) {
        const auto* own = view.tokens[i].data() + (l - part.layer_begin) * view.width;
        std::copy_n(own, view.width, row.begin());
      }
      counts.push_back({setup_.statistics->iter_start + i, layers[l], std::move(row)});
    }
  }
  return counts;
}

Status StatisticsRecorder::write_counts(const std::vector<Part>& parts,
                                        StatisticsOutcome& outcome) {
  dist::Communicator& world = *setup_.world;
  const int num_iterations = outcome.iter_stop - outcome.asked.iter_start;
  eplb::Statistics sums{.num_experts = views_.back().width,
                        .top_k = setup_.config->moe.top_k,
                        .num_ranks = outcome.ep_size,
                        .iter_start = outcome.asked.iter_start,
                        .iter_stop = outcome.iter_stop,
                        .layers = setup_.config->moe_layers,
                        .tokens = {}};
  sums.tokens.resize(static_cast<size_t>(num_iterations) * sums.layers.size() *
                     static_cast<size_t>(sums.num_experts));
  Result<eplb::StatisticsWriter> writer =
      eplb::StatisticsWriter::create(outcome.asked.folder, layout());
  outcome.status = writer.status();
  for (int rank = 0; rank < world.size(); ++rank) {
    const Part& part = parts[rank];
    ASSIGN_OR_RETURN(const std::vector<View> views, counts_of(rank, part));
    const auto counts = rank_counts(views.back(), part, num_iterations);
    add_to(sums, counts);
    if (outcome.status.is_ok()) outcome.status = writer->add_counts(rank, counts);
    if (outcome.status.is_ok() && views.size() == 2) {
      outcome.status =
          writer->add_expert_counts(rank, rank_counts(views.front(), part, num_iterations));
    }
  }
  if (outcome.status.is_ok()) outcome.status = writer->commit();
  outcome.counts = std::move(sums);
  return Status::ok();
}

}  // namespace wideep::engine
