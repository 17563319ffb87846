#include "dist/mpi_job.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <string>
#include <thread>
#include <utility>

namespace wideep::dist {

namespace {

using Clock = std::chrono::steady_clock;

constexpr int kNoticeTag = 1;
// Yields are cheap and answer fast; after so many the rank is taken to be idle.
constexpr int kYields = 100;
constexpr std::chrono::microseconds kLongestSleep{500};
// How long a wait that was given up goes on for transfers that were half done.
constexpr std::chrono::seconds kDrain{1};
// Ranks that only heard of a failure leave the killing, and the message, to the one that failed.
constexpr std::chrono::seconds kBystanderPatience{5};

}  // namespace

Status mpi_status(int code, const char* call) {
  if (code == MPI_SUCCESS) return {};
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(code, text, &length);
  return Status::unavailable(fmt::format("{}: {}", call, std::string(text, length)));
}

void Backoff::pause() {
  if (polls_ < kYields) {
    ++polls_;
    std::this_thread::yield();
  } else if (may_sleep_) {
    std::this_thread::sleep_for(sleep_);
    sleep_ = std::min(2 * sleep_, kLongestSleep);
  }
}

Result<std::unique_ptr<MpiJob>> MpiJob::create(const MpiOptions& options) {
  int was_initialized = 0;
  int was_finalized = 0;
  MPI_Initialized(&was_initialized);
  MPI_Finalized(&was_finalized);
  if (was_initialized != 0) {
    return Status::unavailable(was_finalized != 0
                                   ? "MPI world: a process can have only one, and it has ended"
                                   : "MPI world: this process has one already");
  }
  std::unique_ptr<MpiJob> job(new MpiJob(options));
  int provided = 0;
  RETURN_IF_ERROR(mpi_status(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_FUNNELED, &provided),
                             "MPI_Init_thread"));
  job->initialized_here_ = true;
  if (provided < MPI_THREAD_FUNNELED) {
    return Status::unavailable("MPI world: this MPI does not allow threads beside the main one");
  }
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  RETURN_IF_ERROR(mpi_status(MPI_Comm_dup(MPI_COMM_WORLD, &job->control_), "MPI_Comm_dup"));
  MPI_Comm_rank(job->control_, &job->rank_);
  MPI_Comm_size(job->control_, &job->size_);
  job->lowest_failed_rank_ = job->size_;
  RETURN_IF_ERROR(job->listen());
  return job;
}

MpiJob::~MpiJob() {
  if (!initialized_here_) return;
  if (notice_request_ != MPI_REQUEST_NULL) {
    MPI_Cancel(&notice_request_);
    MPI_Wait(&notice_request_, MPI_STATUS_IGNORE);
  }
  if (control_ != MPI_COMM_NULL) MPI_Comm_free(&control_);
  MPI_Finalize();
}

Status MpiJob::listen() {
  return mpi_status(MPI_Irecv(&incoming_, sizeof(incoming_), MPI_BYTE, MPI_ANY_SOURCE, kNoticeTag,
                              control_, &notice_request_),
                    "MPI_Irecv");
}

Status MpiJob::check_notices() {
  for (;;) {
    int arrived = 0;
    RETURN_IF_ERROR(
        mpi_status(MPI_Test(&notice_request_, &arrived, MPI_STATUS_IGNORE), "MPI_Test"));
    if (arrived == 0) break;
    lowest_failed_rank_ = std::min(lowest_failed_rank_, static_cast<int>(incoming_.rank));
    if (!first_notice_) first_notice_ = incoming_;
    RETURN_IF_ERROR(listen());
  }
  if (!first_notice_) return {};
  return Status::aborted(fmt::format("the run was ended: {}", first_notice_->message));
}

Status MpiJob::wait(std::span<MPI_Request> requests, int num_receives) {
  Backoff backoff(options_);
  for (;;) {
    int done = 0;
    const int code =
        MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE);
    RETURN_IF_ERROR(mpi_status(code, "MPI_Testall"));
    if (done != 0) return {};
    if (Status failed = check_notices(); !failed.is_ok()) {
      give_up(requests, num_receives);
      return failed;
    }
    backoff.pause();
  }
}

void MpiJob::give_up(std::span<MPI_Request> requests, int num_receives) {
  for (MPI_Request& request : requests.first(num_receives)) {
    if (request != MPI_REQUEST_NULL) MPI_Cancel(&request);
  }
  // A transfer that had begun cannot be cancelled; its peer is on the way out as well and drains
  // too. Sends that nobody received stay behind: nothing touches their buffers any more.
  Backoff backoff(options_);
  const Clock::time_point deadline = Clock::now() + kDrain;
  int done = 0;
  while (done == 0 && Clock::now() < deadline) {
    MPI_Testall(static_cast<int>(requests.size()), requests.data(), &done, MPI_STATUSES_IGNORE);
    backoff.pause();
  }
}

void MpiJob::keep(MPI_Request request, std::unique_ptr<std::byte[]> data) {
  std::erase_if(kept_, [](Kept& kept) {
    int done = 0;
    return MPI_Test(&kept.request, &done, MPI_STATUS_IGNORE) == MPI_SUCCESS && done != 0;
  });
  kept_.push_back({request, std::move(data)});
}

void MpiJob::announce(const Status& own) {
  auto notice = std::make_unique<Notice>();
  notice->rank = rank_;
  const size_t length = std::min(own.message().size(), sizeof(notice->message) - 1);
  std::memcpy(notice->message, own.message().data(), length);
  const auto bytes = std::as_bytes(std::span(notice.get(), 1));
  for (int peer = 0; peer < size_; ++peer) {
    if (peer == rank_) continue;
    auto copy = std::make_unique_for_overwrite<std::byte[]>(bytes.size());
    std::memcpy(copy.get(), bytes.data(), bytes.size());
    MPI_Request request = MPI_REQUEST_NULL;
    // Where this fails the peer is gone, or will be killed with the job.
    MPI_Isend(copy.get(), static_cast<int>(bytes.size()), MPI_BYTE, peer, kNoticeTag, control_,
              &request);
    keep(request, std::move(copy));
  }
}

void MpiJob::wait_or_kill(MPI_Request& request, Clock::time_point deadline, const Status* own) {
  Backoff backoff(options_);
  for (;;) {
    int done = 0;
    const int code = MPI_Test(&request, &done, MPI_STATUS_IGNORE);
    if (code == MPI_SUCCESS && done != 0) return;
    static_cast<void>(check_notices());
    if (code != MPI_SUCCESS || Clock::now() >= deadline) {
      // Of several that failed, the lowest rank speaks.
      if (own != nullptr && rank_ < lowest_failed_rank_ && options_.on_kill) options_.on_kill(*own);
      MPI_Abort(MPI_COMM_WORLD, own != nullptr ? own->exit_code() : 1);
    }
    backoff.pause();
  }
}

Status MpiJob::agree_on_failure(const Status& own) {
  const bool heard_first = !check_notices().is_ok();
  const Status named = size_ == 1 ? own : own.prefixed(fmt::format("rank {}: ", rank_));
  const Status* mine = heard_first ? nullptr : &named;
  if (mine != nullptr) announce(*mine);
  const Clock::time_point deadline =
      Clock::now() + std::chrono::seconds(options_.abort_after_seconds) +
      (mine != nullptr ? std::chrono::seconds(0) : kBystanderPatience);
  MPI_Request request = MPI_REQUEST_NULL;
  const int candidate = mine != nullptr ? rank_ : std::numeric_limits<int>::max();
  int speaker = 0;
  MPI_Iallreduce(&candidate, &speaker, 1, MPI_INT, MPI_MIN, control_, &request);
  wait_or_kill(request, deadline, mine);

  int64_t code_and_length[2] = {static_cast<int64_t>(named.code()),
                                static_cast<int64_t>(named.message().size())};
  MPI_Ibcast(code_and_length, 2, MPI_INT64_T, speaker, control_, &request);
  wait_or_kill(request, deadline, mine);
  std::string message = named.message();
  message.resize(code_and_length[1]);
  MPI_Ibcast(message.data(), static_cast<int>(message.size()), MPI_CHAR, speaker, control_,
             &request);
  wait_or_kill(request, deadline, mine);
  return Status::of_code(static_cast<StatusCode>(code_and_length[0]), std::move(message));
}

}  // namespace wideep::dist
