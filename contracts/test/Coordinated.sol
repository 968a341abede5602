// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.30;

import {HyperGPULedger} from "../src/HyperGPULedger.sol";
import {Trees, vm} from "./Vm.sol";

/// @dev A session, and the books that its coordinator keeps of it.
abstract contract Coordinated {
    using Trees for bytes32;

    HyperGPULedger internal _ledger;
    bytes32 internal _id;
    HyperGPULedger.Commitment[] internal _history;
    address internal constant COORDINATOR = address(0xC0);
    address internal constant ALICE = address(0xA1);
    address internal constant BOB = address(0xB0);
    address internal constant MALLORY = address(0xE1);
    bytes32 internal constant SALT = bytes32(uint256(7));

    function setUp() public virtual {
        vm.warp(1_700_000_000);
        _ledger = new HyperGPULedger();
        vm.deal(COORDINATOR, 1_000 ether);
        vm.prank(COORDINATOR);
        _id = _ledger.open{value: 10 ether}(SALT);
    }

    function _commit(bytes32 rewards, uint128 owed) internal {
        uint64 round = uint64(_history.length + 1);
        HyperGPULedger.Commitment memory c =
            HyperGPULedger.Commitment(round, bytes32(uint256(round)), bytes32("model"), rewards, owed);
        vm.prank(_ledger.session(_id).coordinator);
        _ledger.commitRound(_id, round, c.root, c.model, rewards, owed);
        _history.push(c);
    }

    function _headAfter(uint256 round) internal view returns (bytes32 head) {
        head = _id;
        for (uint256 i = 0; i < round; ++i) {
            HyperGPULedger.Commitment memory c = _history[i];
            head = head.head(c.round, c.root, c.model, c.rewards, c.owed);
        }
    }

    /// @dev Commitments of rounds `first` to `last`, and the head before them.
    function _rounds(uint256 first, uint256 last)
        internal
        view
        returns (bytes32 before, HyperGPULedger.Commitment[] memory rounds)
    {
        before = _headAfter(first - 1);
        rounds = new HyperGPULedger.Commitment[](last + 1 - first);
        for (uint256 round = first; round <= last; ++round) {
            rounds[round - first] = _history[round - 1];
        }
    }

    /// @dev Pays a grant against the head after round `last`.
    function _claim(address account, HyperGPULedger.Grant memory grant, uint256 last) internal returns (uint256) {
        return _claim(account, one(grant), grant.round > 1 ? grant.round - 1 : 1, last);
    }

    function _claim(address account, HyperGPULedger.Grant[] memory grants, uint256 first, uint256 last)
        internal
        returns (uint256)
    {
        (bytes32 before, HyperGPULedger.Commitment[] memory rounds) = _rounds(first, last);
        return _ledger.claim(_id, account, before, rounds, grants);
    }

    function one(HyperGPULedger.Grant memory grant) internal pure returns (HyperGPULedger.Grant[] memory grants) {
        grants = new HyperGPULedger.Grant[](1);
        grants[0] = grant;
    }
}

/// @dev A receiver that refuses money.
contract Refusing {
    receive() external payable {
        revert("no, thank you");
    }
}
