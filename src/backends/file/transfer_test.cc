#include "backends/file/transfer.h"

#include <cerrno>

#include <gtest/gtest.h>

namespace ashlar::file {
namespace {

TEST(Transfer, IsOverWhenAllIsThere) {
    Transfer transfer(8192, 1);
    EXPECT_EQ(transfer.left(), 8192U);
    EXPECT_TRUE(transfer.take(IoResult::bytes(8192)));
    EXPECT_EQ(transfer.result(), IoResult::bytes(8192));
}

TEST(Transfer, GoesOnAfterAShortPart) {
    Transfer transfer(8192, 512);
    EXPECT_FALSE(transfer.take(IoResult::bytes(512)));
    EXPECT_EQ(transfer.done(), 512U);
    EXPECT_EQ(transfer.left(), 8192U - 512);
    EXPECT_FALSE(transfer.take(IoResult::bytes(4096)));
    EXPECT_TRUE(transfer.take(IoResult::bytes(8192 - 512 - 4096)));
    EXPECT_EQ(transfer.result(), IoResult::bytes(8192));
}

TEST(Transfer, TriesAgainAfterASignalAndWhenToldTo) {
    Transfer transfer(4096, 1);
    EXPECT_FALSE(transfer.take(IoResult::from_errno(EINTR)));
    EXPECT_FALSE(transfer.take(IoResult::from_errno(EAGAIN)));
    EXPECT_EQ(transfer.left(), 4096U);
    EXPECT_TRUE(transfer.take(IoResult::bytes(4096)));
    EXPECT_TRUE(transfer.result().ok());
}

TEST(Transfer, NothingMoreIsAnErrorAndNeverSuccess) {
    Transfer first(4096, 1);
    EXPECT_TRUE(first.take(IoResult::bytes(0)));
    EXPECT_EQ(first.result().error(), EIO);
    Transfer later(4096, 1);
    EXPECT_FALSE(later.take(IoResult::bytes(1000)));
    EXPECT_TRUE(later.take(IoResult::bytes(0)));
    EXPECT_EQ(later.result().error(), EIO);
}

TEST(Transfer, DirectIoDoesNotGoOnFromTheMiddleOfABlock) {
    Transfer transfer(4096, 512);
    EXPECT_TRUE(transfer.take(IoResult::bytes(1000)));
    EXPECT_EQ(transfer.result().error(), EIO);
}

TEST(Transfer, KeepsTheErrno) {
    for (const int code : {ENOSPC, EDQUOT, EIO, EROFS, ECANCELED}) {
        Transfer transfer(4096, 1);
        EXPECT_FALSE(transfer.take(IoResult::bytes(512)));
        EXPECT_TRUE(transfer.take(IoResult::from_errno(code)));
        EXPECT_EQ(transfer.result().error(), code);
    }
}

}  // namespace
}  // namespace ashlar::file
