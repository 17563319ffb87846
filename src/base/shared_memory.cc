#include "base/shared_memory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <optional>
#include <utility>
#include <vector>

#include "base/check.h"
#include "base/file.h"
#include "base/text.h"

namespace wideep {
namespace {

constexpr std::string_view kPrefix = "wideep";
constexpr size_t kMaxWhat = 128;

std::string system_error(int error) {
  return std::strerror(error);  // NOLINT(concurrency-mt-unsafe): glibc's is
}

// The first line of a file of /proc or /sys, which have no size; nullopt where there is none.
std::optional<std::string> first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  if (!std::getline(file, line)) return std::nullopt;
  return line;
}

// When a process began, in clock ticks since the machine did; nullopt where none runs.
std::optional<int64_t> start_time(int64_t pid) {
  const std::optional<std::string> stat = first_line(fmt::format("/proc/{}/stat", pid));
  if (!stat) return std::nullopt;
  // The second field, in brackets, may hold anything; state is the third, start time the 22nd.
  const size_t name_end = stat->rfind(')');
  if (name_end == std::string::npos) return std::nullopt;
  const auto fields = split(trim(std::string_view(*stat).substr(name_end + 1)), ' ');
  constexpr size_t kState = 0;
  constexpr size_t kStart = 19;
  if (fields.size() <= kStart || fields[kState] == "Z" || fields[kState] == "X") {
    return std::nullopt;
  }
  return parse_int(fields[kStart]);
}

struct Maker {
  int64_t pid = 0;
  int64_t start = 0;
};

// Whose segment this is, by its name.
std::optional<Maker> maker_of(std::string_view name) {
  const auto parts = split(name, '_');
  if (parts.size() < 4 || parts[0] != kPrefix) return std::nullopt;
  const auto pid = parse_int(parts[1]);
  const auto start = parse_int(parts[2]);
  if (!pid || !start || *pid < 1) return std::nullopt;
  return Maker{*pid, *start};
}

bool is_good_what(std::string_view what) {
  constexpr std::string_view kAllowed =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.";
  return !what.empty() && what.size() <= kMaxWhat &&
         what.find_first_not_of(kAllowed) == std::string_view::npos;
}

// What a policy file says: "always [madvise] never".
std::string policy(const std::string& path) {
  return first_line(path).value_or("missing, this kernel has no such pages");
}

// Of "always [madvise] never": madvise.
std::string_view chosen(std::string_view policies) {
  const size_t begin = policies.find('[');
  const size_t end = policies.find(']');
  if (begin == std::string_view::npos || end == std::string_view::npos || end < begin) return "";
  return policies.substr(begin + 1, end - begin - 1);
}

// Removes a file whose maker is gone and that nobody holds. The bytes that it took, or nullopt.
std::optional<int64_t> remove_unheld(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NOFOLLOW);  // NOLINT
  if (fd < 0) return std::nullopt;
  struct stat info {};
  const bool removed = ::flock(fd, LOCK_EX | LOCK_NB) == 0 && ::fstat(fd, &info) == 0 &&
                       S_ISREG(info.st_mode) && ::unlink(path.c_str()) == 0;
  ::close(fd);
  constexpr int64_t kBlock = 512;  // of st_blocks, whatever the file system's own
  if (!removed) return std::nullopt;
  return info.st_blocks * kBlock;
}

}  // namespace

SharedSegment::SharedSegment(SharedSegment&& other) noexcept {
  *this = std::move(other);
}

SharedSegment& SharedSegment::operator=(SharedSegment&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(name_, other.name_);
  std::swap(owner_, other.owner_);
  std::swap(fd_, other.fd_);
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(huge_page_note_, other.huge_page_note_);
  return *this;
}

SharedSegment::~SharedSegment() {
  if (data_ != nullptr) ::munmap(data_, size_);
  remove_name();
  if (fd_ >= 0) ::close(fd_);
}

void SharedSegment::remove_name() {
  if (!path_.empty() && owner_ == ::getpid()) ::unlink(path_.c_str());
  path_.clear();
}

SharedMemory::SharedMemory(SharedMemoryOptions options) : options_(std::move(options)) {
  if (!options_.advise) options_.advise = ::madvise;
}

Result<SharedSegment> SharedMemory::create(std::string_view what, int64_t bytes) {
  CHECK(is_good_what(what) && bytes >= 1);
  if (!std::exchange(has_created_, true)) remove_leftovers();
  ASSIGN_OR_RETURN(SharedSegment segment, make_file(what));
  RETURN_IF_ERROR(check_free(segment, bytes));
  if (::ftruncate(segment.fd_, bytes) != 0) {
    return Status::io(fmt::format("{}: cannot be made {} bytes long: {}", segment.path_, bytes,
                                  system_error(errno)));
  }
  RETURN_IF_ERROR(map(segment, bytes, Access::kReadWrite));
  if (options_.huge_pages) RETURN_IF_ERROR(advise_huge_pages(segment));
  RETURN_IF_ERROR(reserve(segment, bytes));
  return segment;
}

Result<SharedSegment> SharedMemory::open(const std::string& name, int64_t bytes,
                                         Access access) const {
  const std::string path = join_path(options_.folder, name);
  if (!maker_of(name) || name.find('/') != std::string::npos) {
    return Status::invalid_input(
        fmt::format("{}: not the name of a segment, wideep_<pid>_<start time>_<what>", path));
  }
  SharedSegment segment;
  segment.name_ = name;
  segment.fd_ = ::open(path.c_str(),  // NOLINT
                       (access == Access::kRead ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOFOLLOW);
  if (segment.fd_ < 0) {
    const std::string why = system_error(errno);
    return errno == ENOENT ? Status::not_found(fmt::format(
                                 "{}: no such segment: the process that made it has ended", path))
                           : Status::io(fmt::format("{}: cannot be opened: {}", path, why));
  }
  struct stat info {};
  if (::flock(segment.fd_, LOCK_SH | LOCK_NB) != 0 || ::fstat(segment.fd_, &info) != 0) {
    return Status::io(fmt::format("{}: cannot be held: {}", path, system_error(errno)));
  }
  if (info.st_size != bytes) {
    return Status::invalid_input(
        fmt::format("{}: has {} bytes, must have {}", path, info.st_size, bytes));
  }
  RETURN_IF_ERROR(map(segment, bytes, access));
  if (options_.huge_pages) RETURN_IF_ERROR(advise_huge_pages(segment));
  return segment;
}

Result<SharedSegment> SharedMemory::make_file(std::string_view what) const {
  const int pid = ::getpid();
  const std::optional<int64_t> start = start_time(pid);
  if (!start) return Status::io(fmt::format("/proc/{}/stat: cannot be read", pid));
  // Twice: a cleaner that knows other pids may take the file before it is locked.
  for (int attempt = 0; attempt < 2; ++attempt) {
    SharedSegment segment;
    segment.name_ = fmt::format("{}_{}_{}_{}", kPrefix, pid, *start, what);
    const std::string path = join_path(options_.folder, segment.name_);
    segment.fd_ = ::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);  // NOLINT
    if (segment.fd_ < 0) {
      return errno == EEXIST
                 ? Status::invalid_input(fmt::format(
                       "{}: exists: each segment of a process needs a name of its own", path))
                 : Status::io(fmt::format("{}: cannot be created: {}", path, system_error(errno)));
    }
    segment.path_ = path;
    segment.owner_ = pid;
    struct stat info {};
    if (::flock(segment.fd_, LOCK_SH | LOCK_NB) == 0 && ::fstat(segment.fd_, &info) == 0 &&
        info.st_nlink > 0) {
      return segment;
    }
  }
  return Status::io(
      fmt::format("{}: another run removes segments as they are made", options_.folder));
}

Status SharedMemory::no_room(const SharedSegment& segment, int64_t bytes) const {
  struct statvfs info {};
  int64_t free = 0;
  if (::fstatvfs(segment.fd_, &info) == 0) {
    free = static_cast<int64_t>(info.f_bavail) * static_cast<int64_t>(info.f_frsize);
  }
  return Status::io(fmt::format(
      "{}: no room for {}: {} bytes wanted, {} free: remove what is not needed, or make it larger "
      "with `mount -o remount,size=SIZE {}` (of a container: `docker run --shm-size=SIZE`)",
      options_.folder, segment.name_, bytes, free, options_.folder));
}

// Before the first byte: a reservation that must fail would first take what there is.
Status SharedMemory::check_free(const SharedSegment& segment, int64_t bytes) const {
  struct statvfs info {};
  if (::fstatvfs(segment.fd_, &info) != 0) {
    return Status::io(fmt::format("{}: {}", options_.folder, system_error(errno)));
  }
  const auto block = static_cast<int64_t>(info.f_frsize);
  const int64_t wanted = bytes / block + (bytes % block != 0 ? 1 : 0);
  return wanted <= static_cast<int64_t>(info.f_bavail) ? Status::ok() : no_room(segment, bytes);
}

Status SharedMemory::reserve(SharedSegment& segment, int64_t bytes) const {
#ifdef MADV_POPULATE_WRITE
  // Pages that come by a touch of the advised map may be huge; those that the file system makes for
  // a reservation are not. A hint: the reservation below is what counts.
  if (options_.huge_pages) options_.advise(segment.data_, segment.size_, MADV_POPULATE_WRITE);
#endif
  int error = 0;
  do {
    error = ::posix_fallocate(segment.fd_, 0, bytes);
  } while (error == EINTR);
  if (error == 0) return Status::ok();
  if (error == ENOSPC || error == ENOMEM) return no_room(segment, bytes);
  return Status::io(fmt::format("{}: {} bytes cannot be reserved: {}", segment.path_, bytes,
                                system_error(error)));
}

Status SharedMemory::map(SharedSegment& segment, int64_t bytes, Access access) const {
  const int protection = access == Access::kRead ? PROT_READ : PROT_READ | PROT_WRITE;
  void* data = ::mmap(nullptr, static_cast<size_t>(bytes), protection, MAP_SHARED, segment.fd_, 0);
  if (data == MAP_FAILED) {
    return Status::io(fmt::format("{}: {} bytes cannot be mapped: {}",
                                  join_path(options_.folder, segment.name_), bytes,
                                  system_error(errno)));
  }
  segment.data_ = static_cast<std::byte*>(data);
  segment.size_ = static_cast<size_t>(bytes);
  return Status::ok();
}

Status SharedMemory::advise_huge_pages(SharedSegment& segment) const {
  const std::string enabled_path = join_path(options_.huge_page_folder, "enabled");
  const std::string defrag_path = join_path(options_.huge_page_folder, "defrag");
  const std::string shmem_path = join_path(options_.huge_page_folder, "shmem_enabled");
  if (options_.advise(segment.data_, segment.size_, MADV_HUGEPAGE) != 0) {
    const std::string why = system_error(errno);
    return Status::unavailable(fmt::format(
        "madvise(MADV_HUGEPAGE) failed: {}: check if Transparent Hugepages are enabled. {}: {}. "
        "{}: {}. If never is chosen there, enable them: `echo madvise > {}`",
        why, enabled_path, policy(enabled_path), defrag_path, policy(defrag_path), enabled_path));
  }
  // The policy of shared memory is a file of its own.
  const std::string shmem = policy(shmem_path);
  const std::string_view choice = chosen(shmem);
  if (choice == "never" || choice == "deny" || choice.empty()) {
    segment.huge_page_note_ =
        fmt::format("huge pages are not granted: {}: {}; to get them: `echo advise > {}`",
                    shmem_path, shmem, shmem_path);
  }
  return Status::ok();
}

void SharedMemory::remove_leftovers() {
  const Result<std::vector<std::string>> names = list_directory(options_.folder);
  if (!names.is_ok()) return;  // what is made next will say why
  for (const std::string& name : *names) {
    const std::optional<Maker> maker = maker_of(name);
    if (!maker || start_time(maker->pid) == maker->start) continue;
    const auto bytes = remove_unheld(join_path(options_.folder, name));
    if (!bytes) continue;
    ++leftovers_.segments;
    leftovers_.bytes += *bytes;
  }
}

}  // namespace wideep
