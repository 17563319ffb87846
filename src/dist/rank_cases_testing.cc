#include "dist/rank_cases_testing.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <functional>
#include <stdexcept>
#include <vector>

#include "base/random.h"
#include "config/mapping.h"
#include "dist/groups.h"

namespace wideep::dist {

namespace {

constexpr int kRounds = 12;

using Bytes = std::vector<std::byte>;

Status expect(bool holds, const std::string& what) {
  return holds ? Status::ok() : Status::aborted("wrong: " + what);
}

// What rank `rank` contributes in a round: every rank can work out every other's part.
Bytes bytes_of(int round, int rank, int64_t size) {
  Random random(1, {static_cast<uint64_t>(round), static_cast<uint64_t>(rank)});
  std::vector<uint64_t> words((size + 7) / 8);
  for (uint64_t& word : words) word = random.next();
  const std::span<const std::byte> bytes = std::as_bytes(std::span(words)).first(size);
  return {bytes.begin(), bytes.end()};
}

// Of very different magnitudes, so that another order of summation gives other bits.
std::vector<float> floats_of(int round, int rank, int64_t size) {
  Random random(2, {static_cast<uint64_t>(round), static_cast<uint64_t>(rank)});
  std::vector<float> data(size);
  for (float& x : data) {
    const uint64_t bits = random.next();
    x = static_cast<float>(static_cast<int32_t>(bits)) / static_cast<float>(1 << (bits >> 59));
  }
  return data;
}

// Full range: sums wrap.
std::vector<int64_t> integers_of(int round, int rank, int64_t size) {
  Random random(3, {static_cast<uint64_t>(round), static_cast<uint64_t>(rank)});
  std::vector<int64_t> data(size);
  for (int64_t& x : data) x = static_cast<int64_t>(random.next());
  return data;
}

// The same on every rank. Some 0; one in four can be large enough for the work to be cut into
// pieces.
int64_t size_of_round(int round, int index = 0) {
  Random random(4, {static_cast<uint64_t>(round), static_cast<uint64_t>(index)});
  if (random.below(4) == 0) return 0;
  return static_cast<int64_t>(random.below(round % 4 == 3 ? 150'000 : 300));
}

// Of `parts` ranks; some 0.
std::vector<int64_t> counts_of_round(int round, int parts) {
  std::vector<int64_t> counts(parts);
  for (int r = 0; r < parts; ++r) counts[r] = size_of_round(round, 10 + r) / parts;
  return counts;
}

Bytes concatenate(int round, std::span<const int64_t> counts) {
  Bytes all;
  for (size_t r = 0; r < counts.size(); ++r) {
    const Bytes part = bytes_of(round, static_cast<int>(r), counts[r]);
    all.insert(all.end(), part.begin(), part.end());
  }
  return all;
}

// ((x0 + x1) + x2) + ...
template <typename T, typename Combine>
std::vector<T> fold(int size, const std::function<std::vector<T>(int rank)>& part,
                    Combine combine) {
  std::vector<T> all = part(0);
  for (int r = 1; r < size; ++r) {
    const std::vector<T> next = part(r);
    for (size_t i = 0; i < all.size(); ++i) all[i] = combine(all[i], next[i]);
  }
  return all;
}

Status barriers(Communicator& world) {
  for (int i = 0; i < 50; ++i) RETURN_IF_ERROR(world.barrier());
  return {};
}

Status broadcasts(Communicator& world) {
  for (int round = 0; round < kRounds; ++round) {
    const int root = round % world.size();
    const int64_t size = size_of_round(round);
    Bytes data = world.rank() == root ? bytes_of(round, root, size) : Bytes(size);
    RETURN_IF_ERROR(world.broadcast(data, root));
    RETURN_IF_ERROR(expect(data == bytes_of(round, root, size), fmt::format("round {}", round)));
  }
  return {};
}

Status all_gathers(Communicator& world) {
  for (int round = 0; round < kRounds; ++round) {
    const int64_t size = size_of_round(round);
    const std::vector<int64_t> counts(world.size(), size);
    const Bytes expected = concatenate(round, counts);
    const Bytes mine = bytes_of(round, world.rank(), size);
    Bytes all(size * world.size());
    RETURN_IF_ERROR(world.all_gather(mine, all));
    RETURN_IF_ERROR(expect(all == expected, fmt::format("round {}", round)));

    Bytes in_place(all.size());
    const auto own = std::span(in_place).subspan(size * world.rank(), size);
    std::copy(mine.begin(), mine.end(), own.begin());
    RETURN_IF_ERROR(world.all_gather(own, in_place));
    RETURN_IF_ERROR(expect(in_place == expected, fmt::format("round {} in place", round)));
  }
  return {};
}

Status all_gathers_v(Communicator& world) {
  for (int round = 0; round < kRounds; ++round) {
    const std::vector<int64_t> counts = counts_of_round(round, world.size());
    const Bytes expected = concatenate(round, counts);
    Bytes all(expected.size());
    RETURN_IF_ERROR(
        world.all_gather_v(bytes_of(round, world.rank(), counts[world.rank()]), counts, all));
    RETURN_IF_ERROR(expect(all == expected, fmt::format("round {}", round)));
  }
  return {};
}

Status all_reduces_of_floats(Communicator& world) {
  for (int round = 0; round < kRounds; ++round) {
    const int64_t size = size_of_round(round);
    std::vector<float> data = floats_of(round, world.rank(), size);
    RETURN_IF_ERROR(world.all_reduce_sum(data));
    const auto expected = fold<float>(
        world.size(), [&](int r) { return floats_of(round, r, size); },
        [](float a, float b) { return a + b; });
    RETURN_IF_ERROR(expect(data == expected, fmt::format("bits of round {}", round)));
  }
  return {};
}

Status all_reduces_of_integers(Communicator& world) {
  for (int round = 0; round < kRounds; ++round) {
    const int64_t size = size_of_round(round);
    const auto part = [&](int r) { return integers_of(round, r, size); };
    std::vector<int64_t> sum = part(world.rank());
    RETURN_IF_ERROR(world.all_reduce_sum(sum));
    const auto expected_sum = fold<int64_t>(world.size(), part, [](int64_t a, int64_t b) {
      return static_cast<int64_t>(static_cast<uint64_t>(a) + static_cast<uint64_t>(b));
    });
    RETURN_IF_ERROR(expect(sum == expected_sum, fmt::format("sum of round {}", round)));

    std::vector<int64_t> max = part(world.rank());
    RETURN_IF_ERROR(world.all_reduce_max(max));
    const auto expected_max =
        fold<int64_t>(world.size(), part, [](int64_t a, int64_t b) { return std::max(a, b); });
    RETURN_IF_ERROR(expect(max == expected_max, fmt::format("max of round {}", round)));
  }
  return {};
}

Status reduce_scatters_v(Communicator& world) {
  for (int round = 0; round < kRounds; ++round) {
    const std::vector<int64_t> counts = counts_of_round(round, world.size());
    const int64_t total = sum_of(counts);
    const int64_t mine = counts[world.rank()];
    std::vector<float> out(mine);
    RETURN_IF_ERROR(world.reduce_scatter_v(floats_of(round, world.rank(), total), counts, out));
    const auto sum = fold<float>(
        world.size(), [&](int r) { return floats_of(round, r, total); },
        [](float a, float b) { return a + b; });
    const auto begin = sum.begin() + sum_of(std::span(counts).first(world.rank()));
    RETURN_IF_ERROR(expect(std::equal(begin, begin + mine, out.begin(), out.end()),
                           fmt::format("bits of round {}", round)));
  }
  return {};
}

Status all_to_alls_v(Communicator& world) {
  const int size = world.size();
  for (int round = 0; round < kRounds; ++round) {
    const auto bytes_between = [&](int from, int to) {
      return size_of_round(round, 100 + from * size + to);
    };
    const auto part = [&](int from, int to) {
      return bytes_of(1000 * round + from, to, bytes_between(from, to));
    };
    std::vector<int64_t> send_counts(size), recv_counts(size);
    Bytes in, expected;
    for (int peer = 0; peer < size; ++peer) {
      send_counts[peer] = bytes_between(world.rank(), peer);
      recv_counts[peer] = bytes_between(peer, world.rank());
      const Bytes sent = part(world.rank(), peer);
      const Bytes received = part(peer, world.rank());
      in.insert(in.end(), sent.begin(), sent.end());
      expected.insert(expected.end(), received.begin(), received.end());
    }
    Bytes out(expected.size());
    RETURN_IF_ERROR(world.all_to_all_v(in, send_counts, out, recv_counts));
    RETURN_IF_ERROR(expect(out == expected, fmt::format("round {}", round)));
  }
  return {};
}

// Everybody sends to everybody, itself too, before anybody receives; received in another order.
Status messages(Communicator& world) {
  for (int round = 0; round < kRounds; ++round) {
    for (int peer = 0; peer < world.size(); ++peer) {
      for (const int tag : {0, 7}) {
        const int64_t size = size_of_round(round, tag);
        RETURN_IF_ERROR(world.send(bytes_of(round, world.rank() + 50 * tag, size), peer, tag));
      }
    }
    for (int peer = world.size() - 1; peer >= 0; --peer) {
      for (const int tag : {7, 0}) {
        const int64_t size = size_of_round(round, tag);
        Bytes data(size);
        RETURN_IF_ERROR(world.recv(data, peer, tag));
        RETURN_IF_ERROR(expect(data == bytes_of(round, peer + 50 * tag, size),
                               fmt::format("round {} from {} tag {}", round, peer, tag)));
      }
    }
  }
  return {};
}

// A line of ranks, each waiting for the one before: messages of one tag stay in order.
Status pipeline(Communicator& world) {
  for (int i = 0; i < 100; ++i) {
    int value = i;
    const auto data = std::as_writable_bytes(std::span(&value, 1));
    if (world.rank() > 0) {
      value = -1;
      RETURN_IF_ERROR(world.recv(data, world.rank() - 1, 3));
      RETURN_IF_ERROR(expect(value == i + world.rank() - 1, fmt::format("message {}", i)));
      ++value;
    }
    if (world.rank() + 1 < world.size()) RETURN_IF_ERROR(world.send(data, world.rank() + 1, 3));
  }
  return {};
}

// The world's numbers of a group's ranks, exchanged over the group itself.
Status expect_members(Communicator& world, Communicator& group, const std::vector<int>& members) {
  std::vector<int> seen(group.size());
  const int self = world.rank();
  RETURN_IF_ERROR(group.all_gather(std::as_bytes(std::span(&self, 1)),
                                   std::as_writable_bytes(std::span(seen))));
  RETURN_IF_ERROR(expect(seen == members, "the group's members, exchanged"));
  const std::span<const int> known = group.world_ranks();
  RETURN_IF_ERROR(expect(std::equal(known.begin(), known.end(), members.begin(), members.end()),
                         "the group's members"));
  return expect(members[group.rank()] == self, "this rank's place in the group");
}

// Rows and columns of a grid, with the world's last row cut short.
Status splits(Communicator& world) {
  const int width = 3;
  const int row = world.rank() / width;
  const int column = world.rank() % width;
  std::vector<int> row_ranks, column_ranks;
  for (int r = 0; r < world.size(); ++r) {
    if (r / width == row) row_ranks.push_back(r);
    if (r % width == column) column_ranks.insert(column_ranks.begin(), r);
  }
  ASSIGN_OR_RETURN(const auto rows, world.split(row, world.rank()));
  ASSIGN_OR_RETURN(const auto columns, world.split(column, -world.rank()));
  RETURN_IF_ERROR(expect_members(world, *rows, row_ranks));
  RETURN_IF_ERROR(expect_members(world, *columns, column_ranks));
  // Collectives of several groups at once, and groups of groups.
  for (Communicator* group : {rows.get(), columns.get(), &world}) {
    RETURN_IF_ERROR(all_reduces_of_floats(*group));
    RETURN_IF_ERROR(messages(*group));
    ASSIGN_OR_RETURN(const auto half, group->split(group->rank() % 2, 0));
    RETURN_IF_ERROR(all_to_alls_v(*half));
    RETURN_IF_ERROR(
        expect(half->size() == (group->size() + 1 - group->rank() % 2) / 2, "size of the half"));
  }
  // Equal keys keep the order of the ranks; -1 is in no group.
  ASSIGN_OR_RETURN(const auto others, world.split(world.rank() == 0 ? -1 : 5, 0));
  RETURN_IF_ERROR(expect((others == nullptr) == (world.rank() == 0), "who is in no group"));
  if (others != nullptr) {
    RETURN_IF_ERROR(expect(others->rank() == world.rank() - 1, "order of equal keys"));
    RETURN_IF_ERROR(others->barrier());
  }
  return {};
}

// A group that outlives the one it was split from.
Status nested_groups(Communicator& world) {
  std::unique_ptr<Communicator> inner;
  {
    ASSIGN_OR_RETURN(const auto outer, world.split(0, -world.rank()));
    ASSIGN_OR_RETURN(inner, outer->split(outer->rank() % 2, 0));
  }
  RETURN_IF_ERROR(all_gathers(*inner));
  return broadcasts(*inner);
}

// The call fails on this rank as on every other, with a message that has all of `parts`.
Status expect_refusal(const Status& status, std::initializer_list<std::string> parts) {
  RETURN_IF_ERROR(expect(status.code() == StatusCode::kAborted, "a disagreement went through"));
  for (const std::string& part : parts) {
    RETURN_IF_ERROR(expect(status.message().find(part) != std::string::npos,
                           fmt::format("'{}' does not say '{}'", status.message(), part)));
  }
  return {};
}

std::string rank_text(int rank) {
  return fmt::format("rank {}", rank);
}

// One rank, the last, disagrees; all get the error, and the group goes on.
Status refusals_of_sizes(Communicator& world) {
  if (world.size() == 1) return {};
  const int last = world.size() - 1;
  const bool odd = world.rank() == last;
  Bytes bytes(odd ? 12 : 16);
  Bytes many(16 * world.size());
  RETURN_IF_ERROR(expect_refusal(world.broadcast(bytes, 0),
                                 {"broadcast", rank_text(last) + " passes bytes 12", "rank 0 16"}));
  RETURN_IF_ERROR(
      expect_refusal(world.all_gather(bytes, many),
                     {"all_gather", rank_text(last) + " passes bytes 12", "rank 0 16"}));
  RETURN_IF_ERROR(expect_refusal(
      world.all_gather(std::span(many).first(16), std::span(bytes).first(odd ? 5 : 16)),
      {"all_gather", "out buffer of", fmt::format("{}", many.size())}));
  std::vector<float> floats(odd ? 3 : 4);
  RETURN_IF_ERROR(expect_refusal(world.all_reduce_sum(floats),
                                 {"all_reduce_sum of floats", "12", "16", rank_text(last)}));
  std::vector<int64_t> integers(odd ? 0 : 1);
  RETURN_IF_ERROR(expect_refusal(world.all_reduce_sum(integers), {"integers", " 0", " 8"}));
  RETURN_IF_ERROR(expect_refusal(world.all_reduce_max(integers), {"all_reduce_max", " 0", " 8"}));
  RETURN_IF_ERROR(world.barrier());
  return all_gathers(world);
}

Status refusals_of_counts(Communicator& world) {
  if (world.size() == 1) return {};
  const int last = world.size() - 1;
  const bool odd = world.rank() == last;
  std::vector<int64_t> counts(world.size(), 4);
  Bytes mine(4);
  Bytes all(4 * world.size());
  if (odd) counts[0] = 3;
  RETURN_IF_ERROR(expect_refusal(
      world.all_gather_v(mine, counts, all),
      {"all_gather_v", rank_text(last) + " passes count 3 for rank 0, rank 0 passes 4"}));
  std::vector<float> in(4 * world.size());
  std::vector<float> out(4);
  RETURN_IF_ERROR(expect_refusal(
      world.reduce_scatter_v(in, counts, out),
      {"reduce_scatter_v", rank_text(last) + " passes count 3 for rank 0, rank 0 passes 4"}));
  RETURN_IF_ERROR(expect_refusal(
      world.all_to_all_v(std::span(all).first(sum_of(counts)), counts, all,
                         std::vector<int64_t>(world.size(), 4)),
      {"all_to_all_v", rank_text(last) + " sends 3 bytes to rank 0, which expects 4"}));
  counts[0] = 4;
  if (odd) counts.pop_back();
  RETURN_IF_ERROR(expect_refusal(
      world.all_gather_v(mine, counts, all),
      {rank_text(last), fmt::format("{} counts", last), fmt::format("{} ranks", last + 1)}));
  counts.assign(world.size(), 4);
  RETURN_IF_ERROR(
      expect_refusal(world.all_gather_v(odd ? std::span(all).first(3) : mine, counts, all),
                     {rank_text(last), "in buffer of 3 bytes", "4 bytes"}));
  RETURN_IF_ERROR(
      expect_refusal(world.reduce_scatter_v(in, counts, std::span(out).first(odd ? 1 : 4)),
                     {rank_text(last), "out buffer of 4 bytes", "16 bytes"}));
  counts.assign(world.size(), -1);
  RETURN_IF_ERROR(expect_refusal(world.all_gather_v(mine, counts, all), {"count -1"}));
  counts.assign(world.size(), int64_t{1} << 62);
  RETURN_IF_ERROR(expect_refusal(world.reduce_scatter_v(in, counts, out), {"fits 64 bits"}));
  return reduce_scatters_v(world);
}

Status refusals_of_calls(Communicator& world) {
  RETURN_IF_ERROR(expect_refusal(world.broadcast({}, world.size()), {"root", "not in the group"}));
  RETURN_IF_ERROR(expect_refusal(world.broadcast({}, -1), {"root -1"}));
  RETURN_IF_ERROR(expect_refusal(world.send({}, world.size(), 0), {"send: peer"}));
  RETURN_IF_ERROR(expect_refusal(world.recv({}, 0, -1), {"recv: peer 0 with tag -1"}));
  RETURN_IF_ERROR(expect_refusal(world.split(-2, 0).status(), {"color -2"}));
  if (world.size() == 1) return {};
  const int last = world.size() - 1;
  const bool odd = world.rank() == last;
  Bytes data(8);
  RETURN_IF_ERROR(
      expect_refusal(odd ? world.barrier() : world.broadcast(data, 0),
                     {rank_text(last) + " calls barrier where rank 0 calls broadcast"}));
  RETURN_IF_ERROR(expect_refusal(odd ? world.split(0, 0).status() : world.barrier(),
                                 {rank_text(last) + " calls split where rank 0 calls barrier"}));
  RETURN_IF_ERROR(expect_refusal(world.broadcast(data, odd ? 1 : 0),
                                 {rank_text(last) + " passes root 1, rank 0 0"}));
  // A message of another size than expected fails on its receiver.
  RETURN_IF_ERROR(world.send(std::span(data).first(5), world.rank() == 0 ? last : 0, 1));
  if (world.rank() == 0) {
    for (int peer = 1; peer <= last; ++peer) {
      RETURN_IF_ERROR(expect_refusal(world.recv(data, peer, 1),
                                     {"rank 0 expects 8 bytes from " + rank_text(peer), "sent 5"}));
    }
  } else if (odd) {
    RETURN_IF_ERROR(expect_refusal(world.recv(std::span(data).first(4), 0, 1), {"4 bytes", "5"}));
  }
  return barriers(world);
}

Status no_data(Communicator& world) {
  const std::vector<int64_t> zeros(world.size(), 0);
  for (int round = 0; round < 20; ++round) {
    RETURN_IF_ERROR(world.broadcast({}, 0));
    RETURN_IF_ERROR(world.all_gather({}, {}));
    RETURN_IF_ERROR(world.all_gather_v({}, zeros, {}));
    RETURN_IF_ERROR(world.all_reduce_sum(std::span<float>()));
    RETURN_IF_ERROR(world.all_reduce_max({}));
    RETURN_IF_ERROR(world.reduce_scatter_v({}, zeros, {}));
    RETURN_IF_ERROR(world.all_to_all_v({}, zeros, {}, zeros));
    RETURN_IF_ERROR(world.send({}, world.rank(), 0));
    RETURN_IF_ERROR(world.recv({}, world.rank(), 0));
  }
  return {};
}

// Every layout that fits the world's size, with as many replicas as there is room for.
Status groups_of_mappings(Communicator& world) {
  for (const auto& [tp, cp, pp, ep] : std::vector<std::array<int, 4>>{{1, 1, 1, 1},
                                                                      {2, 1, 1, 2},
                                                                      {1, 2, 1, 1},
                                                                      {1, 1, 2, 1},
                                                                      {4, 1, 2, 2},
                                                                      {2, 2, 2, 1},
                                                                      {8, 1, 1, 4},
                                                                      {3, 1, 3, 3}}) {
    const Result<Mapping> mapping = Mapping::create({.tensor_parallel_size = tp,
                                                     .pipeline_parallel_size = pp,
                                                     .context_parallel_size = cp,
                                                     .moe_expert_parallel_size = ep});
    RETURN_IF_ERROR(mapping.status());
    const Result<Groups> made = make_groups(*mapping, world);
    if (world.size() % mapping->world() != 0) {
      RETURN_IF_ERROR(expect(made.status().code() == StatusCode::kInvalidInput, "code"));
      const std::string& message = made.status().message();
      RETURN_IF_ERROR(expect(
          message.find(fmt::format("world of {} ranks", world.size())) != std::string::npos &&
              message.find(fmt::format("needs {} ranks", mapping->world())) != std::string::npos,
          message));
      continue;
    }
    RETURN_IF_ERROR(made.status());
    const int rank = world.rank() % mapping->world();
    const int base = world.rank() - rank;
    const auto expect_group = [&](Communicator& group, std::vector<int> members, int place) {
      for (int& member : members) member += base;
      RETURN_IF_ERROR(expect_members(world, group, members));
      return expect(group.rank() == place, "the rank is the coordinate");
    };
    const Coordinates at = mapping->coordinates(rank);
    RETURN_IF_ERROR(expect(made->coordinates == at, "coordinates"));
    RETURN_IF_ERROR(expect(made->replica * mapping->world() == base, "replica"));
    RETURN_IF_ERROR(expect(made->num_replicas * mapping->world() == world.size(), "replicas"));
    RETURN_IF_ERROR(expect(made->replicas->rank() == made->replica, "rank among replicas"));
    RETURN_IF_ERROR(expect(made->model->rank() == rank, "rank in the model"));
    RETURN_IF_ERROR(expect_group(*made->tp, mapping->tp_group(rank), at.tp_rank));
    RETURN_IF_ERROR(expect_group(*made->cp, mapping->cp_group(rank), at.cp_rank));
    RETURN_IF_ERROR(expect_group(*made->pp, mapping->pp_group(rank), at.pp_rank));
    RETURN_IF_ERROR(expect_group(*made->moe_tp, mapping->moe_tp_group(rank), at.moe_tp_rank));
    RETURN_IF_ERROR(expect_group(*made->moe_ep, mapping->moe_ep_group(rank), at.moe_ep_rank));
  }
  return {};
}

Status leaves(Communicator& world) {
  for (int round = 0; round < 3; ++round) {
    RETURN_IF_ERROR(expect(world.leave(), "all ranks leave"));
    RETURN_IF_ERROR(barriers(world));
  }
  return {};
}

// The last rank fails after some traffic; the others are in `wait`, which must end with kAborted
// and that rank's message.
template <typename Wait>
Status fail_while_others(Communicator& world, const Wait& wait) {
  RETURN_IF_ERROR(barriers(world));
  const int last = world.size() - 1;
  if (world.rank() == last) return Status::io(kFailureMessage);
  const Status status = wait();
  return expect_refusal(status, {kFailureMessage, rank_text(last)});
}

Status fail_in_barrier(Communicator& world) {
  return fail_while_others(world, [&] { return world.barrier(); });
}

Status fail_in_broadcast(Communicator& world) {
  Bytes data(100);
  return fail_while_others(world, [&] { return world.broadcast(data, world.size() - 1); });
}

Status fail_in_all_gather(Communicator& world) {
  Bytes data(100);
  Bytes all(100 * world.size());
  return fail_while_others(world, [&] { return world.all_gather(data, all); });
}

Status fail_in_all_gather_v(Communicator& world) {
  Bytes data(100);
  Bytes all(100 * world.size());
  const std::vector<int64_t> counts(world.size(), 100);
  return fail_while_others(world, [&] { return world.all_gather_v(data, counts, all); });
}

Status fail_in_all_reduce(Communicator& world) {
  std::vector<float> data(1'000'000);
  return fail_while_others(world, [&] { return world.all_reduce_sum(data); });
}

Status fail_in_all_reduce_max(Communicator& world) {
  std::vector<int64_t> data(10);
  return fail_while_others(world, [&] { return world.all_reduce_max(data); });
}

Status fail_in_reduce_scatter_v(Communicator& world) {
  std::vector<float> in(4 * world.size());
  std::vector<float> out(4);
  const std::vector<int64_t> counts(world.size(), 4);
  return fail_while_others(world, [&] { return world.reduce_scatter_v(in, counts, out); });
}

Status fail_in_all_to_all_v(Communicator& world) {
  Bytes in(4 * world.size());
  Bytes out(in.size());
  const std::vector<int64_t> counts(world.size(), 4);
  return fail_while_others(world, [&] { return world.all_to_all_v(in, counts, out, counts); });
}

Status fail_in_recv(Communicator& world) {
  Bytes data(100);
  return fail_while_others(world, [&] { return world.recv(data, world.size() - 1, 0); });
}

Status fail_in_split(Communicator& world) {
  return fail_while_others(world, [&] { return world.split(0, 0).status(); });
}

// The others wait in another group, where the failing rank is not.
Status fail_in_other_group(Communicator& world) {
  const int last = world.size() - 1;
  ASSIGN_OR_RETURN(const auto group, world.split(world.rank() == last ? 1 : 0, 0));
  return fail_while_others(world, [&]() -> Status {
    for (;;) RETURN_IF_ERROR(group->barrier());
  });
}

Status fail_by_throwing(Communicator& world) {
  if (world.rank() == world.size() - 1) throw std::runtime_error(kFailureMessage);
  return expect_refusal(world.barrier(), {kFailureMessage});
}

constexpr RankCase kPassing[] = {
    {"barriers", barriers},
    {"broadcasts", broadcasts},
    {"all_gathers", all_gathers},
    {"all_gathers_v", all_gathers_v},
    {"all_reduces_of_floats", all_reduces_of_floats},
    {"all_reduces_of_integers", all_reduces_of_integers},
    {"reduce_scatters_v", reduce_scatters_v},
    {"all_to_alls_v", all_to_alls_v},
    {"messages", messages},
    {"pipeline", pipeline},
    {"splits", splits},
    {"nested_groups", nested_groups},
    {"no_data", no_data},
    {"leaves", leaves},
    {"groups_of_mappings", groups_of_mappings},
    {"refusals_of_sizes", refusals_of_sizes},
    {"refusals_of_counts", refusals_of_counts},
    {"refusals_of_calls", refusals_of_calls},
};

constexpr RankCase kFailing[] = {
    {"fail_in_barrier", fail_in_barrier},
    {"fail_in_broadcast", fail_in_broadcast},
    {"fail_in_all_gather", fail_in_all_gather},
    {"fail_in_all_gather_v", fail_in_all_gather_v},
    {"fail_in_all_reduce", fail_in_all_reduce},
    {"fail_in_all_reduce_max", fail_in_all_reduce_max},
    {"fail_in_reduce_scatter_v", fail_in_reduce_scatter_v},
    {"fail_in_all_to_all_v", fail_in_all_to_all_v},
    {"fail_in_recv", fail_in_recv},
    {"fail_in_split", fail_in_split},
    {"fail_in_other_group", fail_in_other_group},
    {"fail_by_throwing", fail_by_throwing},
};

}  // namespace

std::span<const RankCase> passing_cases() {
  return kPassing;
}

std::span<const RankCase> failing_cases() {
  return kFailing;
}

}  // namespace wideep::dist
